"""The colors of a graph outside of the page: those of its light theme, as plain attributes and for matplotlib."""

from __future__ import annotations

from dataclasses import dataclass

INK, MUTED, LINE_COLOR, CARD, SUNK, ACCENT = "#1d2126", "#5c636d", "#c9c6be", "#ffffff", "#f1f0ec", "#155e8a"
FOR, AGAINST, ZERO = "#0b5a8c", "#b4451a", "#f7f8f8"
SHADES = 20
WIDEST = 3.5
SIGNS = {1: "for", -1: "against", 0: "plain"}


@dataclass(frozen=True)
class Look:
    """How one thing is drawn; an empty color is none, a dash is the lengths of dash and gap."""

    fill: str = ""
    stroke: str = ""
    width: float = 1.0
    dash: tuple[float, ...] = ()
    opacity: float = 1.0
    bold: bool = False

    def attributes(self) -> str:
        """Return the look as attributes of an SVG element."""
        parts = [f'fill="{self.fill or "none"}"']
        if self.stroke:
            parts.append(f'stroke="{self.stroke}" stroke-width="{round(self.width, 2)}"')
        if self.dash:
            parts.append(f'stroke-dasharray="{" ".join(map(str, self.dash))}"')
        if self.opacity != 1:
            parts.append(f'opacity="{round(self.opacity, 2)}"')
        if self.bold:
            parts.append('font-weight="650"')
        return " ".join(parts)


def sign_of(sign: int) -> str:
    """Return the class of a sign."""
    return SIGNS[sign]


def shade(sign: int, share: float) -> str:
    """Return the class that colors a weight by its sign and its share of the largest."""
    return f"{'b' if sign < 0 else 'a'}{round(SHADES * share) if sign else 0}"


def mixed(color: str, share: float) -> str:
    """Return a color on the way from the one of zero to a given one."""
    ends = [[int(text[k : k + 2], 16) for k in (1, 3, 5)] for text in (ZERO, color)]
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*ends, strict=True))


def box_look(kind: str, tint: str) -> Look:
    """Return how the box of a node looks: by its tint where that is a shade, else by its kind."""
    if tint == "unsure":
        return Look(fill=SUNK, stroke=MUTED, dash=(1.5, 2))
    if tint[0] in "ab" and tint[1:].isdecimal():
        color = FOR if tint[0] == "a" else AGAINST
        return Look(mixed(color, int(tint[1:]) / SHADES), color, 1.25, (4.0, 2.0) if tint[0] == "b" else ())
    return Look(
        CARD if kind == "player" else SUNK, ACCENT if kind == "root" else LINE_COLOR, 1.5 if kind == "root" else 1.0
    )


def faintest(links: int) -> float:
    """Return how opaque the faintest lines are: the more there are, the fainter, so that the strong ones stand out."""
    return max(0.1, min(0.4, 16 / max(1, links)))


def link_look(sign: int, share: float, least: float) -> Look:
    """Return how a line looks: its width and opacity by the strength of its pattern."""
    width = 0.75 + (WIDEST - 0.75) * share**1.5
    opacity = least + (0.75 - least) * share**2
    if not sign:
        return Look(stroke=MUTED, width=1.0, opacity=max(0.25, least))
    return Look(stroke=FOR if sign > 0 else AGAINST, width=width, dash=(5, 3) if sign < 0 else (), opacity=opacity)


def text_look(style: str) -> Look:
    """Return how text of some classes looks."""
    names = style.split()
    fill = CARD if "on" in names else MUTED if "layer" in names or names == ["value"] else INK
    return Look(fill=fill, bold="strong" in names)
