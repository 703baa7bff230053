"""How the forecast of a run is printed: at most 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crnn_search.cli import terminal
from crnn_search.results.forecast import Forecast, Range, StageForecast

UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86_400.0}
FEWEST = 2.0
"""Of a unit of time, for a column to be in it."""


def show_forecast(forecast: Forecast) -> None:
    """Print what each stage of a run takes, and how that was found."""
    concurrent, on_gpus = forecast.concurrent, forecast.gpus > 0
    compute = _unit(_compute_s(forecast.whole, on_gpus=on_gpus).middle, ("minutes", "hours"))
    time = _unit(forecast.whole.time_s.middle, tuple(UNITS))

    def in_units(name: str) -> Callable[[float], str]:
        return lambda seconds: _figure(seconds / UNITS[name])

    def row(stage: StageForecast) -> list[str]:
        return [
            stage.name,
            f"{stage.trials:,}",
            _range(stage.epochs, "{:,.0f}".format),
            _range(_compute_s(stage, on_gpus=on_gpus), in_units(compute)),
            f"{stage.share:.0%}",
            _range(stage.time_s, in_units(time)),
        ]

    columns = ("", "trials", "epochs", f"{'GPU' if on_gpus else 'core'} {compute}", "share",
               f"{time}, {concurrent} at once")  # fmt: skip
    terminal.show("")
    terminal.show_table(columns, map(row, (*forecast.stages, forecast.whole)), right=5)
    if forecast.at_most:
        names = " or ".join(forecast.at_most)
        terminal.show(f"At most: {names} may end the search earlier.")
    terminal.show(
        f"Medians of {forecast.runs} simulated runs, and where 90 % of them are: that depends on\n"
        "which trials ASHA stops, and on which configurations are drawn."
    )
    low, high = (value / 1000 for value in (forecast.memory_mb.low, forecast.memory_mb.high))
    terminal.show(
        f"{'GPU memory' if on_gpus else 'memory'}: one trial {low:.1f}–{high:.1f} GB, {concurrent} "
        f"at once up to {concurrent * high:.1f} GB, as measured"
    )
    given = _count(forecast.gpus, "GPU") if on_gpus else _count(forecast.cpus, "core")
    terminal.show(
        f"measured: {forecast.configurations} configurations, "
        f"{min(concurrent, forecast.configurations)} at once, each on {given} of\n"
        f"{forecast.device}, in {forecast.arithmetic}"
    )


def _compute_s(stage: StageForecast, *, on_gpus: bool) -> Range:
    """The core or GPU seconds of a stage."""
    hours = stage.gpu_hours if on_gpus else stage.core_hours
    return Range(3600 * hours.low, 3600 * hours.middle, 3600 * hours.high)


def _unit(seconds: float, names: Sequence[str]) -> str:
    """The largest of these units that a time has a few of, else the smallest."""
    fitting = (name for name in reversed(names) if seconds >= FEWEST * UNITS[name])
    return next(fitting, names[0])


def _range(found: Range, figure: Callable[[float], str]) -> str:
    """The median and, unless all are the same, the bounds."""
    low, middle, high = map(figure, (found.low, found.middle, found.high))
    return middle if low == high else f"{middle} ({low}–{high})"


def _figure(value: float) -> str:
    """Two significant digits, and all before the point; at most two after it."""
    if value == 0 or value >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def _count(number: float, what: str) -> str:
    return f"{number:.3g} {what}{'s' * (number != 1)}"
