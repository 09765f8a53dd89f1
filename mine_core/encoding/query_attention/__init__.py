"""The paper's encoder: voxels that query the image's tokens through one cross-attention layer, started from ridge."""

from mine_core.encoding.query_attention.config import QueryAttentionConfig
from mine_core.encoding.query_attention.encoder import QueryAttentionEncoder, load_query_attention

__all__ = ["QueryAttentionConfig", "QueryAttentionEncoder", "load_query_attention"]
