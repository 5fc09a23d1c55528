"""The command `frontdesk`. Each subcommand has its own module; console.py has the code they share."""

import click

from app.cli.lazy_group import LazyGroup

COMMAND_IMPORT_PATHS = {
    "backup": "app.cli.backup:backup_commands",
    "db": "app.cli.db:db_commands",
    "demo": "app.demo.commands:demo_commands",
    "doctor": "app.cli.doctor:doctor_command",
    "import": "app.cli.import_files:import_command",
    "sync": "app.cli.sync:sync_commands",
    "testdata": "app.cli.test_data:testdata_commands",
    "transfer": "app.cli.transfer:transfer_commands",
    "up": "app.cli.up:up_command",
    "whatsapp": "app.cli.whatsapp:whatsapp_commands",
}


class ErrorHandlingGroup(LazyGroup):
    """The group of all commands. It turns every error into one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. Raises ClickException for errors, unless --debug asks for the traceback."""
        from app.cli import console  # here, because `frontdesk --help` and `--version` do not need it

        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise  # click prints these and exits
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            raise click.exceptions.Exit(console.EXIT_INTERRUPTED) from None
        except Exception as error:  # users see no traceback; `to_click_exception` reports unexpected errors
            if ctx.params["debug"]:
                raise
            raise console.to_click_exception(error) from None


@click.group(
    cls=ErrorHandlingGroup,
    import_paths=COMMAND_IMPORT_PATHS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="frontdesk", message="%(package)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """The data service behind a WhatsApp booking assistant for salons.

    Exit codes: 0 success, 1 the command ran and found a problem, 2 wrong usage or configuration,
    3 the command could not run.
    """
