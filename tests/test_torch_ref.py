import pytest
import torch

import torch_ref


def test_parameter_names_are_the_lectures():
    names = set(torch_ref.GPTLanguageModel(n_layer=1, n_head=2, n_embd=8).state_dict())
    assert {
        "token_embedding_table.weight",
        "position_embedding_table.weight",
        "blocks.0.sa.heads.0.key.weight",
        "blocks.0.sa.heads.1.tril",
        "blocks.0.sa.proj.bias",
        "blocks.0.ffwd.net.0.weight",
        "blocks.0.ffwd.net.2.bias",
        "blocks.0.ln1.weight",
        "blocks.0.ln2.bias",
        "ln_f.weight",
        "lm_head.bias",
    } <= names


def test_the_lectures_model_has_10_8_million_parameters():
    model = torch_ref.GPTLanguageModel()
    assert sum(p.numel() for p in model.parameters()) == 10_788_929


def test_three_running_means_agree():
    x = torch.randn(4, 8, 2, dtype=torch.float64)
    loop = torch_ref.running_mean_loop(x)
    torch.testing.assert_close(torch_ref.running_mean_matmul(x), loop, rtol=0, atol=1e-15)
    torch.testing.assert_close(torch_ref.running_mean_softmax(x), loop, rtol=0, atol=1e-15)
    assert loop[0, 2].tolist() == pytest.approx((x[0, :3].sum(0) / 3).tolist())


def test_heads_attend_as_told():
    x, context = torch.randn(2, 7, 15), torch.randn(2, 5, 15)
    causal = torch_ref.Head(15, 5, block_size=8)
    encoder = torch_ref.Head(15, 5, block_size=8, causal=False)
    assert causal.weights(x).triu(1).abs().max() == 0
    assert encoder.weights(x).min() > 0
    assert causal.weights(x, context).shape == (2, 7, 5)
    assert causal.weights(x, context).min() > 0
    unscaled = torch_ref.Head(15, 5, block_size=8, scale=1.0)
    unscaled.load_state_dict(causal.state_dict())
    scores = causal.query(x) @ causal.key(x).mT
    mask = torch.tril(torch.ones(7, 7)) == 0
    expected = scores.masked_fill(mask, float("-inf")).softmax(-1)
    torch.testing.assert_close(unscaled.weights(x), expected)
    assert torch_ref.MultiHeadAttention(15, 3, block_size=8).weights(x).shape == (2, 3, 7, 7)


def test_a_training_step_and_the_estimate():
    torch.manual_seed(0)
    data = torch.arange(11).repeat(50)
    model = torch_ref.GPTLanguageModel(11, 8, n_layer=1, n_head=3, n_embd=15, dropout=0.1)
    optimizer = torch_ref.make_optimizer(model, 1e-2)
    assert optimizer.defaults["weight_decay"] == 0.01
    for _ in range(100):
        x, y = torch_ref.get_batch(data, block_size=8, batch_size=8)
        torch_ref.train_step(model, optimizer, x, y, clip_norm=1.0)
    estimate = torch_ref.estimate_loss(model, lambda _: torch_ref.get_batch(data, 8, 8), 5)
    assert estimate["train"] < 0.2
    assert model.training
    continued = model.eval().generate(torch.tensor([[3, 4]]), 12)
    assert continued[0].tolist() == [(3 + i) % 11 for i in range(14)]


def test_ignored_targets():
    model = torch_ref.BigramLanguageModel(5)
    idx = torch.tensor([[0, 1, 2]])
    _, loss = model(idx, torch.tensor([[1, -1, 3]]))
    logits, _ = model(idx)
    expected = -(logits[0, 0].log_softmax(-1)[1] + logits[0, 2].log_softmax(-1)[3]) / 2
    torch.testing.assert_close(loss, expected)
