"""Rows of dialogue contexts."""

import factory


class DialogRow(factory.DictFactory):
    user_id = factory.Sequence(lambda n: f"7968{n:07}@s.whatsapp.net")
    stage = "greeting"
    context = factory.LazyFunction(dict)
