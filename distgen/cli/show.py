"""What a person sees: tables, lists, progress bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress


def left_out(contigs: dict[str, Any] | None) -> list[str]:
    """What is said of the contigs that are not in a store, in one sentence; none if all are, or nothing is known."""
    if not contigs or not contigs["contigs"]:
        return []
    others, alternative = contigs["contigs"] - contigs["alternative"], contigs["alternative"]
    why = [f"{alternative:,} alternative, patch or decoy"] * bool(alternative)
    why += [f"{others:,} by the rules of [contigs]"] * bool(others)
    names = ", ".join(contigs["first"]) + ", ..." * (contigs["contigs"] > len(contigs["first"]))
    return [f"{' and '.join(why)} ({names})"]


def few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")


def table(title: str, rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    typer.echo(title)
    for name, value in rows:
        typer.echo(f"  {name:<{width}}  {value}")


def advance(progress: Progress, task: Any, amount: int, read: int = 0) -> None:
    """So much more is done: of what the speed is told in, and of what the total is told in."""
    progress.update(task, advance=read, amount=progress.tasks[task].fields["amount"] + amount)


def expect(progress: Progress, task: Any, total: int) -> None:
    progress.update(task, total=total)


def progress(unit: str) -> Progress:
    """A progress bar on standard error, silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed or 0
            if "amount" in task.fields:
                speed = task.fields["amount"] / (task.elapsed or 1)
            return Text(f"{speed / 1e6:.1f} M{unit}/s" if speed > 1e5 else f"{speed:.1f} {unit}/s")

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            left = super().render(task)
            return Text.assemble(left, " left", style=left.style) if task.total is not None else left

    console = Console(stderr=True)
    name = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (name, BarColumn(bar_width=24), Speed(), Left(compact=True, elapsed_when_finished=True))
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True, expand=True)
