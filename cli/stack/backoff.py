"""How long to wait before what died is started again. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Pauses that double with each death, from the start again after a long enough life."""

    first_s: float = 0.2
    longest_s: float = 10.0
    steady_s: float = 30.0
    """Who lived this long had a fresh start."""

    def deaths(self, before: int, lived_s: float) -> int:
        """Deaths in a row, this one included."""
        return 1 if lived_s >= self.steady_s else before + 1

    def pause_s(self, deaths: int) -> float:
        return float(min(self.longest_s, self.first_s * 2 ** min(deaths - 1, 30)))
