"""Rows of data and training: what was uploaded and frozen (data.py), what is learnt from it (jobs.py)."""

from training.models.data import Dataset, DatasetVersion, DataWork, SourceFile
from training.models.jobs import Checkpoint, Job, JobEvent, Measurement, ResultFile, Sample, Search

__all__ = [
    "Checkpoint",
    "DataWork",
    "Dataset",
    "DatasetVersion",
    "Job",
    "JobEvent",
    "Measurement",
    "ResultFile",
    "Sample",
    "Search",
    "SourceFile",
]
