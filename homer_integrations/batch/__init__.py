"""homer batch: a file of questions to a file of answers."""

from homer_integrations.batch.run import Answerer, Batch, Report, run_batch

__all__ = ["Answerer", "Batch", "Report", "run_batch"]
