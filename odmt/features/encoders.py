"""The frozen encoders of images and texts (paper, Section 3.2: CLIP's vision tower and BERT), as Hugging Face implements them.

They compute in float32, whatever the checkpoint's own type, and give float16. The first token is what the paper calls CLS: the
model's own where it has one, else its pooled output, else the mean over the tokens; the store's header says which.

Deviation: the paper writes the image's CLS token last; here it is first, as CLIP and the official code have it.
"""

from odmt.features.image_encoders import ImageEncoder
from odmt.features.text_encoders import TextEncoder, TextForm

__all__ = ["ImageEncoder", "TextEncoder", "TextForm"]
