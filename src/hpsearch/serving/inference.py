"""A fine-tuned model outside training: loaded from its folder, run on pieces of tokens.

A served model carries a copy of this file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.utils.logging import disable_progress_bar

from hpsearch.training import pooling

BATCH = 32  # pieces in a forward pass


class Inference:
    """A model and its tokenizer, on CUDA if available, else on the CPU."""

    def __init__(self, folder: str | Path, head: str) -> None:
        """Load from a folder that `save_pretrained` wrote; `head` is a class of transformers.

        Raises ValueError if the tokenizer has more tokens than the model's embedding has rows.
        """
        disable_progress_bar()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = getattr(transformers, head).from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, use_safetensors=True
        )
        rows, tokens = self.model.get_input_embeddings().num_embeddings, max(self.tokenizer.get_vocab().values()) + 1
        if tokens > rows:
            raise ValueError(
                f"its tokenizer has tokens with numbers up to {tokens - 1}, and its embedding has {rows} rows, "
                f"numbered from 0; call resize_token_embeddings({tokens}), train it, and save it again"
            )
        if pooling.of_config(self.model.config) == pooling.MEAN:
            pooling.install(self.model)
        self.model.eval().to(self.device)

    def run(
        self,
        ids: Sequence[NDArray[np.int32]],
        types: Sequence[NDArray[np.int8]] | None,
        outputs: Sequence[str],
    ) -> list[NDArray[np.float32]]:
        """Return the outputs for each piece: (C,), or a row for each token. Several outputs are stacked last.

        Args:
            ids: Token ids of each piece.
            types: Token types of each piece; None for a model that takes none.
            outputs: Names of the model's outputs.
        """
        # Pieces of similar length share a batch, so that there is little padding.
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        results: list[Any] = [None] * len(ids)
        pad = self.model.config.pad_token_id
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                inputs = {
                    "input_ids": _padded([ids[i] for i in batch], pad),
                    "attention_mask": _padded([np.ones_like(ids[i]) for i in batch], 0),
                }
                if types is not None:
                    inputs["token_type_ids"] = _padded([types[i] for i in batch], 0)
                given = self.model(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
                stacked = [given[name].float().cpu().numpy() for name in outputs]
                for row, i in enumerate(batch):
                    of_piece = [output[row] for output in stacked]
                    output = np.stack(of_piece, axis=-1) if len(outputs) > 1 else of_piece[0]
                    results[i] = output[: len(ids[i])] if output.ndim == 2 else output
        return results


def _padded(rows: list[NDArray[Any]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(row.astype(np.int64)) for row in rows], batch_first=True, padding_value=value
    )
