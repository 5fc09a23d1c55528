"""The command `frontdesk`: what the commands share is in console.py, each group has a file of its own."""

import click

from app.cli import console
from app.cli.demo import demo_commands
from app.cli.demo_traffic import traffic_command
from app.cli.demo_yclients import demo_yclients_command
from app.cli.doctor import doctor_command
from app.cli.imports import import_command
from app.cli.sync import sync_commands
from app.cli.transfer import transfer_commands
from app.cli.up import up_command
from app.cli.whatsapp import whatsapp_commands


class Commands(click.Group):
    """The commands, with the one place where an error becomes a line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise  # click's own ways to say something and to leave
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            raise click.exceptions.Exit(console.INTERRUPTED) from None
        except Exception as error:  # nothing escapes as a traceback; `failure` reports what is unexpected
            if ctx.params["debug"]:
                raise
            raise console.failure(error) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="frontdesk", message="%(package)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """The data service behind a WhatsApp booking assistant for salons.

    Exit codes: 0 done and well, 1 done but something is wrong, 2 wrong usage or configuration,
    3 could not run.
    """


main.add_command(up_command)
main.add_command(doctor_command)
main.add_command(import_command)
main.add_command(sync_commands)
main.add_command(whatsapp_commands)
main.add_command(transfer_commands)
main.add_command(demo_commands)
demo_commands.add_command(demo_yclients_command)
demo_commands.add_command(traffic_command)
