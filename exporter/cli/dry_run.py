"""`rayslurm launch --dry-run`: what would be submitted, what it costs, and what stands against it."""

from __future__ import annotations

import typer

from exporter.cli.bringing import selected, selection_json, selection_text
from exporter.cli.context import peek_store, print_json, say, warn
from exporter.cli.costing import price_json, price_text
from exporter.config import Config
from exporter.errors import RefusedError
from exporter.job_names import SCRIPT
from exporter.launch.guards import held
from exporter.launch.known import look, price_now
from exporter.launch.reach import check_reach
from exporter.launch.selection import Selection
from exporter.launch.sent import kept, package
from exporter.launch.spec import Spec


def show_dry_run(spec: Spec, settings: Config, *, force: bool, over_budget: bool, as_json: bool) -> None:
    """Prints the batch script, and tells its price at its time limit and what is brought along.

    Raises:
        ConfigError: the spec lacks something.
        RefusedError: it would be refused, after all was shown: every reason, a line or more each.
    """
    site = settings.site(spec.site)
    refused: list[str] = []
    bring: Selection | None = None
    texts = kept(package(spec, settings).files)
    with peek_store(settings) as store:
        price = price_now(spec, site, store)
        try:
            warn(look(spec, site, store, force=force))
        except RefusedError as error:
            refused.append(str(error))
        try:
            warn(held(spec, settings, store, over_budget=over_budget))
        except RefusedError as error:
            refused.append(str(error))
        try:
            check_reach(spec, settings, store)
        except RefusedError as error:
            refused.append(str(error))
        try:
            bring = selected(spec, settings)
        except RefusedError as error:
            refused.append(str(error))
    if as_json:
        print_json(
            {
                **{name: texts[name] for name in (SCRIPT, "plan.json")},
                "bring": None if bring is None else selection_json(bring),
                "price": price_json(price),
                "refused": "\n".join(refused) or None,
            }
        )
    else:
        typer.echo(texts[SCRIPT], nl=False)
    if spec.bring and bring is not None:
        say(selection_text(bring))
    say(price_text(price))
    if refused:
        raise RefusedError("dry run: nothing was submitted, and it would be refused:\n" + "\n".join(refused))
    say("dry run: nothing was submitted")
