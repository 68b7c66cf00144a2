"""How much a file may hold before it is refused: every reader checks these before it allocates."""

MAX_BYTES = 4 * 2**30
"""Bytes of decoded samples that one split may take in memory."""

MAX_TEXT = 512 * 2**20
"""Bytes of a CSV file."""

MAX_ROWS = 20_000_000
MAX_COLUMNS = 20_000
MAX_CLASSES = 10_000

MAX_PIXELS = 64_000_000
"""Pixels of one image."""

MAX_ENCODED = 256 * 2**20
"""Bytes of one encoded image inside a table."""

MAX_LETTERS = 2**17
"""Letters of one text; Python's own reader of CSV has the same limit."""

MAX_TEXTS = 2_000_000
"""Texts of one split."""
