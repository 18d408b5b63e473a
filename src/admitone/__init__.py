"""AdmitOne, a ticket resale marketplace of small services that never sells a ticket twice."""

from typing import Final

__version__: Final = "0.1.0"
