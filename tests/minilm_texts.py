"""The 200 texts whose vectors by sentence-transformers are in data/minilm_reference.npz."""

from __future__ import annotations

import random

# English, other languages and scripts, figures, marks and what tokenizers split oddly.
_WORDS = (
    "the of a quince tree orchard fruit autumn model server text vector matrix query document search answer question "
    "river mountain city train music piano violin doctor hospital medicine law court judge money bank market price "
    "computer program function variable memory thread process network packet router antidisestablishmentarianism "
    "running ran runs quickly don't it's U.S.A. e-mail 3.14159 2024-05-17 100% $5 C++ naïve café Übergröße straße "
    "élève mañana coração Привет мир Кошка 東京 你好 世界 こんにちは 한국어 مرحبا שלום हिन्दी ไทย 🙂 🍐 #tag @user "
    "https://example.org/a?b=c foo_bar fooBar x=y+z; (brackets) [square] {curly} 'quoted' \"double\" … — \u200b \u00ad"
)


def texts() -> list[str]:
    """Lengths from 1 to 250 words, evenly spread; the longest are cut to the model's 256 tokens."""
    draw = random.Random(7)
    lengths = [1 + number * 249 // 199 for number in range(200)]
    return [" ".join(draw.choices(_WORDS.split(" "), k=length)) for length in lengths]
