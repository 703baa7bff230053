"""What the stages after the search have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crnn_search.cluster.resources import Slots
from crnn_search.data.sequences import Digits
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.journal import History, Journal
from crnn_search.storage.run_folder import RunPaths
from crnn_search.storage.trial import Job, JobRecord
from crnn_search.tuning import tuner
from crnn_search.tuning.callback import Recorder
from crnn_search.tuning.progress import Progress


@dataclass(frozen=True)
class Stage:
    """What the stages after the search have in common."""

    space: SearchSpace
    run: RunPaths
    history: History
    journal: Journal
    digits: Digits
    slots: Slots
    progress: Progress

    def finish(
        self, stage: str, title: str, jobs: Sequence[Job], *, keeps_models: bool = False
    ) -> list[JobRecord]:
        """Run those of the jobs that have not ended yet; returns what became of all, in order.

        keeps_models: a job whose last checkpoint is gone has to run again.

        Raises:
            InterruptedRun: the user stopped it.
            StorageError: the run's folder cannot be written.
        """
        self.journal.write("stage", stage=stage)
        earlier = self.history.records(stage)
        known = {job.name: earlier[job.name] for job in jobs if job.name in earlier}
        usable = [
            record
            for job in jobs
            if (record := known.get(job.name))
            and record.job.trains_as(job)
            and not (record.state and keeps_models and not self._has_model(record))
        ]
        recorder = Recorder(stage, self.run, self.journal, self.progress, usable)
        self.progress.stage(title, len(jobs), max(job.epochs for job in jobs), usable)
        for record in usable:
            if not record.state and (record.failure or record.epochs >= record.job.epochs):
                recorder.settle(record)
        for job in jobs:
            if job.name not in recorder.records:
                recorder.made(job)
        recorder.raise_error()
        waiting = [r.job for job in jobs if not (r := recorder.records[job.name]).state]
        if waiting:
            tuner.run_jobs(self.digits, self.run, waiting, self.slots, recorder)
        return [recorder.records[job.name] for job in jobs]

    def _has_model(self, record: JobRecord) -> bool:
        return record.checkpoint is not None and self.run.file(record.checkpoint).is_file()
