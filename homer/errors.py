"""Every error of this library derives from HomerError; messages name the number found, the limit and the mend."""


class HomerError(Exception):
    """Base of all errors raised on purpose by this library."""


class ConfigError(HomerError, ValueError):
    """A setting is out of range, or settings contradict one another or the model."""


class InputError(HomerError, ValueError):
    """Token ids, texts or documents that cannot be compressed or continued as they are."""


class UnsupportedModelError(HomerError, ValueError):
    """A model whose layers cannot be run piecewise, or that could not be loaded."""


class CalibrationError(HomerError, ValueError):
    """A calibration file that is damaged, foreign or too small for its use."""


class CacheError(HomerError, ValueError):
    """A compact cache that is damaged, or that another model made."""


class StoreError(HomerError, OSError):
    """States that cannot be written where they are to be kept."""


class GenerationError(HomerError, ValueError):
    """Generation settings that contradict one another or the model's window."""


class TimeoutExceededError(HomerError, TimeoutError):
    """No whole answer within the time given."""
