"""The command line; exit codes are those of `errors`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from forecaster import backtest as backtests
from forecaster import demo as demonstration
from forecaster import explain as explaining
from forecaster import model_commands
from forecaster import seed as seeding
from forecaster.app import serve, use_one_thread
from forecaster.checkpoints import write_checkpoint
from forecaster.checks import check_everything, create_topics, topic_table
from forecaster.configuration import needed_topics, network_config, observation_config, pipeline_config, training_config
from forecaster.errors import FatalError, ForecasterError
from forecaster.files import read_files
from forecaster.learning.rehearsal import Cadence
from forecaster.learning.schedule import Work
from forecaster.learning.training_job import train_checkpoint
from forecaster.logs import configure_logs
from forecaster.settings import Settings, load_settings
from forecaster.terminal import console, training_progress
from forecaster.training_commands import learn_once, read_history

_log = structlog.get_logger()
commands = typer.Typer(
    help="Probabilistic forecasts for Kafka sensor streams, exactly once. Settings: FORECASTER_<GROUP>__<NAME>.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models = typer.Typer(no_args_is_help=True)
commands.add_typer(models, name="models", help="The checkpoints on the models topic, and which of them is served.")
CheckpointId = Annotated[str, typer.Argument(help="As `forecaster models list` shows it; `none` = no network.")]
FILES_HELP = "CSV (gzipped or not) or Parquet: long, wide, or one series a file."
OptionalFiles = Annotated[list[Path] | None, typer.Argument(help=f"{FILES_HELP} None: the history topic.")]
Files = Annotated[list[Path], typer.Argument(help=FILES_HELP)]
TimeColumn = Annotated[str, typer.Option(help="Column of the event time; several, comma-separated, spell it together.")]


def main() -> None:
    """The command has run, and the process ends with its exit code."""
    try:
        commands()
    except ForecasterError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def _without_broker() -> Settings:
    """Returns the settings of commands that need no broker."""
    settings = load_settings(kafka={"bootstrap_servers": "none"}, topics={"input": "none"})
    configure_logs("WARNING", settings.log.format)
    return settings


def _with_broker() -> Settings:
    """Returns the settings of commands that ask the broker."""
    settings = load_settings()
    configure_logs("WARNING", settings.log.format)
    return settings


def _columns(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


@commands.command()
def run() -> None:
    """The daemon: forecasts every reading until SIGTERM."""
    settings = load_settings()
    configure_logs(settings.log.level, settings.log.format)
    try:
        serve(settings)
    except FatalError as error:
        _log.error("ended with an error", exit_code=error.exit_code, error=str(error))
        raise


@commands.command()
def demo(
    seconds: Annotated[float, typer.Option(help="Stop streaming after so many seconds; 0 = stream everything.")] = 0,
    speed: Annotated[float, typer.Option(help="Hours of weather a second; 0 = as fast as it goes.")] = 0,
    page: Annotated[bool, typer.Option(help="Open the live page in a browser.")] = True,  # noqa: FBT002
) -> None:
    """Embedded broker, real weather of three airports, the real daemon and its page; ends with a summary."""
    demonstration.run_demo(demonstration.Pace(seconds=seconds, hours_per_second=speed), page=page)


@commands.command()
def backtest(  # noqa: PLR0913 - the options of the command
    files: Files,
    time: TimeColumn = "",
    train: Annotated[float, typer.Option(min=0, max=0.95, help="Train on this share of the time first.")] = 0.0,
    retrain_every: Annotated[int, typer.Option(min=0, help="Train a challenger every so many ticks; 0 = never.")] = 0,
    resolve_every: Annotated[int, typer.Option(min=0, help="Solve the readout every so many ticks; 0 = never.")] = 0,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns of the tables.")] = False,  # noqa: FBT002
    json: Annotated[Path | None, typer.Option(help="Also write the metrics there.")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write a page with charts there.")] = None,
) -> None:
    """The serving pipeline itself over files, prequential, against simple forecasts."""
    settings = _without_broker()
    use_one_thread()
    plan = backtests.BacktestPlan(
        pipeline=pipeline_config(settings),
        network=network_config(settings),
        training=training_config(settings),
        train_share=train,
        checkpoint=Path(settings.network.checkpoint) if settings.network.checkpoint else None,
        cadence=Cadence(retrain_every, resolve_every),
    )
    done = backtests.run_backtest(read_files(files, _columns(time)), plan, training_progress)
    backtests.print_report(done.report, wide=wide)
    if json is not None:
        json.write_bytes(backtests.report_json(done.report))
    if report is not None:
        from forecaster.report import html_report

        report.write_text(html_report(done.report, done.chronicle, plan.pipeline.quantile_levels), encoding="utf-8")


@commands.command()
def train(
    files: OptionalFiles = None,
    time: TimeColumn = "",
    out: Annotated[Path, typer.Option(help="Folder that the checkpoint's folder is made in.")] = Path("checkpoints"),
    publish: Annotated[bool, typer.Option("--publish", help="Also put it on the models topic.")] = False,  # noqa: FBT002
) -> None:
    """Trains a checkpoint by truncated BPTT, from files or else from the history topic, and prints its folder."""
    settings = _without_broker() if files and not publish else _with_broker()
    if publish:
        model_commands.ensure_models_topic(settings)  # before the long training, not after it
    history = read_files(files, _columns(time)) if files else read_history(settings)
    with training_progress() as progress:
        checkpoint = train_checkpoint(
            history, observation_config(settings), network_config(settings), training_config(settings), progress
        )
    typer.echo(write_checkpoint(checkpoint, out))
    if publish:
        typer.echo(model_commands.publish(settings, checkpoint))


@commands.command(hidden=True)
def learn(work: Work, folder: Path) -> None:
    """One run of the trainer, which begins it and waits for what lies in the folder then."""
    settings = load_settings()
    configure_logs(settings.log.level, settings.log.format)
    learn_once(settings, work, folder)


@models.command(name="list")
def list_models() -> None:
    """Each checkpoint: when it was published, on how much it was trained, what was decided, whether it serves."""
    console().print(model_commands.model_table(_with_broker()))


@models.command()
def show(checkpoint_id: CheckpointId) -> None:
    """One checkpoint: network, facts of its training, decision."""
    typer.echo(model_commands.model_json(_with_broker(), checkpoint_id))


@models.command()
def promote(checkpoint_id: CheckpointId) -> None:
    """The fleet serves this checkpoint."""
    typer.echo(model_commands.promote(_with_broker(), checkpoint_id))


@models.command()
def rollback() -> None:
    """The fleet serves the last checkpoint that it served with another body."""
    typer.echo(model_commands.roll_back(_with_broker()))


@commands.command()
def topics(
    create: Annotated[bool, typer.Option("--create", help="Create those that are missing.")] = False,  # noqa: FBT002
) -> None:
    """Which topics are needed, with which settings; `--create` makes them."""
    settings = _with_broker()
    if create:
        create_topics(settings, needed_topics(settings))
    topic_table(settings, needed_topics(settings))


@commands.command()
def seed(files: Files, time: TimeColumn = "") -> None:
    """Fills the rows of a group from history, before its first start: nothing begins cold."""
    settings = _with_broker()
    seeding.print_seeded(settings, seeding.seed(settings, read_files(files, _columns(time))))


@commands.command()
def explain(
    series: Annotated[str, typer.Argument(help="Id of the series, as its forecasts are keyed.")],
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,  # noqa: FBT002
) -> None:
    """One series: last readings, scale, what forecasts it, what waits for its truth; from the state topic."""
    explanation = explaining.explain(_with_broker(), series)
    if json:
        typer.echo(explaining.explanation_json(explanation))
    else:
        explaining.print_explanation(explanation)


@commands.command()
def check() -> None:
    """Effective settings (secrets hidden), checkpoint, broker, topics; exits with the code of what is wrong."""
    check_everything(_with_broker())
