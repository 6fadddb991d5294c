"""The best torch there is, of the same architecture to the letter: GPT-2's training.

Compiled by inductor; bfloat16 by autocast with a bfloat16 residual stream; the faster of
FlashAttention and cuDNN; the vocabulary padded to a multiple of 128; fused AdamW. Inductor's
default mode: what "max-autotune" tries takes longer than the whole run, and at these sizes its
products are cuBLAS's.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.device.gpt2_data import (
    RECIPE,
    SHORT,
    SHORT_STEPS,
    Recipe,
    batches,
    state_dict,
)
from benchmarks.device.sizes import TINY, GPT2Sizes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PADDED_TO = 128
KERNELS = {
    "flash": torch.backends.cuda.enable_flash_sdp,
    "cudnn": torch.backends.cuda.enable_cudnn_sdp,
    "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
    "math": torch.backends.cuda.enable_math_sdp,
}


class Block(nn.Module):
    def __init__(self, sizes: GPT2Sizes) -> None:
        super().__init__()
        c = sizes.n_embd
        self.n_head = sizes.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(c, eps=1e-5), nn.LayerNorm(c, eps=1e-5)
        self.c_attn, self.attn_proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.c_fc, self.mlp_proj = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        query, key, value = self.c_attn(self.ln_1(x)).view(B, T, 3, self.n_head, -1).unbind(2)
        heads = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=True
        )
        x = x + self.attn_proj(heads.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class TorchModel(nn.Module):
    """Ids to the mean loss; the residual stream in `dtype`."""

    def __init__(self, sizes: GPT2Sizes, dtype: torch.dtype) -> None:
        super().__init__()
        c = sizes.n_embd
        padded = -(-sizes.vocab_size // PADDED_TO) * PADDED_TO
        self.vocab_size, self.dtype = sizes.vocab_size, dtype
        self.wte, self.wpe = nn.Embedding(padded, c), nn.Embedding(sizes.length, c)
        self.h = nn.ModuleList([Block(sizes) for _ in range(sizes.n_layer)])
        self.ln_f = nn.LayerNorm(c, eps=1e-5)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        positions = self.wpe.weight[: idx.shape[1]]
        x = self.wte(idx).to(self.dtype) + positions.to(self.dtype)
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        logits = logits[..., : self.vocab_size]  # those of the padding count for nothing
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def load(self, state: dict[str, np.ndarray]) -> TorchModel:
        """Fills the model with weights by GPT-2's names; the padding's rows with zeros."""
        left = dict(state)

        def fill(parameter: Tensor, name: str) -> None:
            value = torch.from_numpy(left.pop(name))
            if name.endswith("weight") and value.ndim == 2 and ".h." in name:
                value = value.T
            parameter.zero_()
            parameter[: len(value)].copy_(value)

        theirs = {"attn_proj": "attn.c_proj", "c_attn": "attn.c_attn"}
        theirs |= {"c_fc": "mlp.c_fc", "mlp_proj": "mlp.c_proj"}
        for name, parameter in self.named_parameters():
            for ours, others in theirs.items():
                name = name.replace(ours, others)
            fill(parameter, f"transformer.{name}")
        assert not left, left.keys()
        return self


class TorchGPT2:
    """A side of `benchmarks.interleave`. Its result: the losses of its first chunk of steps."""

    def __init__(
        self,
        sizes: GPT2Sizes,
        steps: int,
        compiler: str | None,
        memory_fraction: float = 1.0,
        dtype: str = "bfloat16",
        recipe: Recipe = RECIPE,
    ) -> None:
        if DEVICE == "cuda":
            torch.cuda.set_per_process_memory_fraction(memory_fraction)
        torch.set_float32_matmul_precision("high" if dtype == "bfloat16" else "highest")
        self.units = steps
        self._sizes, self._recipe = sizes, recipe
        self._bfloat16 = dtype == "bfloat16"
        self._model = TorchModel(sizes, getattr(torch, dtype)).load(state_dict(sizes)).to(DEVICE)
        self._parameters = list(self._model.parameters())
        groups = [
            {"params": [p for p in self._parameters if p.ndim >= 2]},
            {"params": [p for p in self._parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._batches = [torch.from_numpy(x).long().to(DEVICE) for x in batches(sizes, steps)]
        self._done = 0
        self._report: dict[str, Any] = {}
        self._loss: Any = self._model
        if compiler is None:
            use_kernels("math")
        else:
            self._compile(compiler)
        self._first_losses = self._chunk()

    def _compile(self, compiler: str) -> None:
        """With the fastest kernel of attention that can be compiled."""
        seconds = kernel_seconds(self._sizes)
        self._report["attention_seconds"] = seconds
        able = [k for k in seconds if isinstance(seconds[k], float)]
        begun = time.perf_counter()
        for kernel in sorted(able, key=seconds.__getitem__):
            use_kernels(kernel)
            torch._dynamo.reset()
            self._loss = torch.compile(self._model, backend=compiler, dynamic=False, fullgraph=True)
            try:
                self._gradients(0)
            except Exception as error:
                self._report[f"{kernel} failed"] = f"{type(error).__name__}: {error}"[:500]
                self._optimizer.zero_grad(set_to_none=True)
                continue
            self._optimizer.zero_grad(set_to_none=True)
            self._report["attention"] = kernel
            self._report["compile_seconds"] = time.perf_counter() - begun
            return
        raise RuntimeError(f"no kernel of attention could be compiled: {self._report}")

    def _gradients(self, row: int) -> Tensor:
        inputs, targets = self._batches
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self._bfloat16):
            loss = self._loss(inputs[row], targets[row])
        loss.backward()
        return loss.detach()

    def _chunk(self) -> np.ndarray:
        losses = []
        for row in range(self.units):
            losses.append(self._gradients(row))
            nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip_norm, foreach=True)
            for group in self._optimizer.param_groups:
                group["lr"] = self._recipe.rate(self._done)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._done += 1
        return torch.stack(losses).float().cpu().numpy()  # waits for the device

    def result(self) -> np.ndarray:
        return self._first_losses

    def run(self) -> None:
        self._chunk()

    def short_losses(self) -> np.ndarray:
        """The float32 check: the losses of a few steps of a tiny model at highest precision."""
        check = TorchGPT2(TINY, SHORT_STEPS, None, dtype="float32", recipe=SHORT).result()
        torch.set_float32_matmul_precision("high")
        use_kernels(self._report["attention"])
        return check

    def report(self) -> dict[str, Any]:
        report = self._report | {"torch": torch.__version__}
        if DEVICE == "cuda":
            report["device"] = torch.cuda.get_device_name()
            report["cudnn"] = torch.backends.cudnn.version()
            report["peak_bytes"] = torch.cuda.max_memory_allocated()
            report["reserved_bytes"] = torch.cuda.max_memory_reserved()
        return report


def use_kernels(*names: str) -> None:
    """From now on attention is computed by these kernels only, compiled or not."""
    for name, enable in KERNELS.items():
        enable(name in names)


def kernel_seconds(sizes: GPT2Sizes) -> dict[str, float | str]:
    """Of attention forward and backward by each flash kernel, or what it says against it."""
    shape = (sizes.batch_size, sizes.length, 3, sizes.n_head, sizes.n_embd // sizes.n_head)
    qkv = torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    query, key, value = (x.transpose(1, 2) for x in qkv.unbind(2))
    found: dict[str, float | str] = {}
    for kernel in ("cudnn", "flash"):
        use_kernels(kernel)

        def call(times: int) -> float:
            begun = time.perf_counter()
            for _ in range(times):
                out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
                torch.autograd.grad(out, (query, key, value), out.detach())
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            return (time.perf_counter() - begun) / times

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call(3)
                found[kernel] = call(10)
        except RuntimeError as error:
            found[kernel] = str(error)[:300]
    return found
