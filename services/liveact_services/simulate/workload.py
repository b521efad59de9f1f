"""Who comes when, for how long, and with how large a picture: drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DAY_S = 86_400.0
_GRID_S = 10.0


@dataclass(frozen=True)
class Picture:
    """What sessions ask for, and how often."""

    width: int
    height: int
    fps: int
    share: float
    """Of the sessions."""


@dataclass(frozen=True)
class Demand:
    """The load of a service."""

    sessions_per_day: int = 100_000
    tenants: int = 10_000
    hours: float = 24.0
    """How long is measured, after `warm_up_s`."""
    warm_up_s: float = 3600.0
    """What comes before: the fleet is then as if it had run for long."""
    swing: float = 0.6
    """The busiest hour has (1 + swing) of the mean rate, the quietest (1 - swing)."""
    flash_share: float = 0.02
    """Of a day's sessions, how many come on top in one flash crowd of `flash_s`."""
    flash_s: float = 600.0
    mean_s: float = 720.0
    """Mean length of a session; log-normal, of `spread` in the logarithm, `longest_s` at most."""
    spread: float = 1.0
    longest_s: float = 4 * 3600.0
    pictures: tuple[Picture, ...] = (
        Picture(512, 512, 20, 0.6), Picture(1024, 512, 20, 0.3), Picture(1024, 1024, 20, 0.1)
    )  # fmt: skip
    skew: float = 0.8
    """Tenant n has a share proportional to n ** -skew."""

    @property
    def until_s(self) -> float:
        """When the measured time ends; it begins at 0."""
        return self.hours * 3600.0

    def rate(self, at: np.ndarray) -> np.ndarray:
        """Sessions a second at these times."""
        daily = 1 + self.swing * np.sin(2 * np.pi * (at / DAY_S - 0.25))
        base = (1 - self.flash_share) * self.sessions_per_day / DAY_S
        flash = self.flash_share * self.sessions_per_day / self.flash_s
        began = 0.625 * self.until_s
        return base * daily + flash * ((at >= began) & (at < began + self.flash_s))


@dataclass(frozen=True)
class Workload:
    """The sessions in the order of their coming; arrays of one length."""

    arrive_s: np.ndarray
    last_s: np.ndarray
    picture: np.ndarray
    """Which of `pictures` it asks for."""
    tenant: np.ndarray
    quota: np.ndarray
    """By tenant: sessions it may have at once."""
    pictures: tuple[Picture, ...]

    def __len__(self) -> int:
        return len(self.arrive_s)


def draw(demand: Demand, seed: int) -> Workload:
    """A Poisson process of the demand's rate; the same for the same seed."""
    random = np.random.default_rng(seed)
    edges = np.arange(-demand.warm_up_s, demand.until_s + _GRID_S, _GRID_S)
    mass = demand.rate(edges[:-1] + _GRID_S / 2) * _GRID_S
    count = random.poisson(mass)
    arrive = np.repeat(edges[:-1], count) + random.random(count.sum()) * _GRID_S
    arrive.sort()
    arrive = arrive[arrive < demand.until_s]
    size = len(arrive)
    median = demand.mean_s / np.exp(demand.spread**2 / 2)
    last = np.minimum(random.lognormal(np.log(median), demand.spread, size), demand.longest_s)
    shares = [picture.share for picture in demand.pictures]
    share = np.arange(1, demand.tenants + 1) ** -demand.skew
    share /= share.sum()
    busiest = demand.sessions_per_day / DAY_S * (1 + demand.swing) * demand.mean_s
    return Workload(
        arrive, last, random.choice(len(shares), size, p=shares), random.choice(demand.tenants, size, p=share),
        np.maximum(3, np.ceil(3 * busiest * share)).astype(int), demand.pictures,
    )  # fmt: skip
