"""Drawings of a presentation state (PS3.3 C.10.5.1.2), in a picture that is scaled but not yet turned."""

from math import cos, dist, pi, sin

from PIL import Image, ImageDraw, ImageFont

from dicomweb_server.codec.geometry import Geometry
from dicomweb_server.codec.options import Graphic

Point = tuple[float, float]


def draw_graphics(image: Image.Image, geometry: Geometry, graphics: tuple[Graphic, ...]) -> None:
    """Draw in white into the picture of that part of the image."""
    draw = ImageDraw.Draw(image)
    white = 255 if image.mode == "L" else (255, 255, 255)
    across = geometry.width / (geometry.columns.stop - geometry.columns.start)
    down = geometry.height / (geometry.rows.stop - geometry.rows.start)
    width = max(1, round(min(geometry.width, geometry.height) / 400))
    for graphic in graphics:
        # The first pixel has its centre at 1, 1.
        points = [
            ((x - 0.5 - geometry.columns.start) * across, (y - 0.5 - geometry.rows.start) * down)
            for x, y in graphic.points
        ]
        if graphic.shape == "TEXT":
            size = min(max(image.height // 32, 9), 28)
            draw.text(points[0], graphic.text, fill=white, font=ImageFont.load_default(size))
        elif graphic.shape == "POINT":
            _dot(draw, points[0], 2.0 * width, white)
        elif graphic.shape in ("CIRCLE", "ELLIPSE"):
            _outline(draw, _ring(graphic.shape, points), graphic.filled, white, width)
        else:
            _outline(draw, points, graphic.filled, white, width)


def _dot(draw: ImageDraw.ImageDraw, center: Point, radius: float, fill: int | tuple[int, int, int]) -> None:
    x, y = center
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _outline(
    draw: ImageDraw.ImageDraw, points: list[Point], filled: bool, fill: int | tuple[int, int, int], width: int
) -> None:
    if len(points) < 2:
        return
    if filled and points[0] == points[-1]:
        draw.polygon(points, fill=fill)
    else:
        draw.line(points, fill=fill, width=width, joint="curve")


def _ring(shape: str, points: list[Point]) -> list[Point]:
    """A closed line: a circle from its centre and a point on it, an ellipse from the ends of its axes."""
    if shape == "CIRCLE" and len(points) >= 2:
        (x, y), radius = points[0], dist(points[0], points[1])
        first, second = (radius, 0.0), (0.0, radius)
    elif shape == "ELLIPSE" and len(points) >= 4:
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = points[:4]
        x, y = (ax + bx) / 2, (ay + by) / 2
        first, second = ((bx - ax) / 2, (by - ay) / 2), ((dx - cx) / 2, (dy - cy) / 2)
    else:
        return []
    steps = [2 * pi * step / 72 for step in range(72)]
    ring = [(x + first[0] * cos(t) + second[0] * sin(t), y + first[1] * cos(t) + second[1] * sin(t)) for t in steps]
    return [*ring, ring[0]]
