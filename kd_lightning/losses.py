"""Losses: pure functions of tensors, student first. They know no masks: every row they get counts, and each says over
what it averages. All arithmetic is in float32 whatever comes in."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(teacher ‖ student) at temperature T, averaged over rows.

    student, teacher: [N, C] logits. Returns a scalar, 0 where there is no row. The T² keeps the gradient's scale independent
    of T (Hinton et al. 2015, section 2.1).
    """
    return _Divergence.apply(student, teacher, temperature)


class _Divergence(torch.autograd.Function):
    """The divergence with its gradient, T / N · (softmax(student/T) - softmax(teacher/T)), in half the exponentials of
    log-softmax. The teacher gets no gradient."""

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        s, t, rows = student.float() / temperature, teacher.float() / temperature, max(1, len(student))
        p, q = F.softmax(s, dim=-1), F.softmax(t, dim=-1)
        normaliser_s, normaliser_t = (x.amax(-1) - y.amax(-1).log() for x, y in ((s, p), (t, q)))  # logsumexp, [N]
        total = t.sub_(s).mul_(q).sum() + (normaliser_s - normaliser_t).sum()
        ctx.save_for_backward(p.sub_(q).mul_(temperature / rows).to(student.dtype))
        return temperature**2 * total / rows

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: Tensor):
        return ctx.saved_tensors[0] * scale, None, None


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """-Σ_c softmax(teacher/T)_c · log softmax(student/T)_c, averaged over rows; no T² (TinyBERT, equation 10).

    student, teacher: [N, C] logits. Its minimum is the teacher's entropy, not 0. The release divides by C as well.
    """
    return F.cross_entropy(student.float() / temperature, F.softmax(teacher.float() / temperature, dim=-1))


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(student)[label], averaged over rows. student: [N, C] logits, labels: [N] class ids."""
    return F.cross_entropy(student.float(), labels)


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """(student - teacher)², averaged over all entries. Both have the same shape, whichever it is."""
    return F.mse_loss(student.float(), teacher.float())


def _normalised(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the last dimension."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=1e-12)


def normalised_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """(student - teacher)², each row of both brought to mean 0 and variance 1; averaged over all entries. [N, D]; 0 to 4.

    It is 2 · (1 - the correlation over the features), so it compares the direction of a feature map (MobileBERT's release).
    """
    return F.mse_loss(_normalised(student), _normalised(teacher))


def mean_feature_error(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared difference of the rows' means over the features, averaged over rows. [N, D] (MobileBERT's release)."""
    return F.mse_loss(student.float().mean(-1), teacher.float().mean(-1))


def feature_variance_error(student: Tensor, teacher: Tensor) -> Tensor:
    """The absolute difference of the rows' variances over the features, averaged over rows. [N, D] (MobileBERT's release)."""
    ours, theirs = (x.float().var(-1, correction=0) for x in (student, teacher))
    return F.l1_loss(ours, theirs)


def regression_error(student: Tensor, targets: Tensor) -> Tensor:
    """(score - target)², averaged over rows. student: [N, 1], targets: [N]."""
    return F.mse_loss(student.squeeze(-1).float(), targets.float())


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos(student, teacher), averaged over rows. student, teacher: [N, D]."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


def attention_score_error(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], by_gram: bool | None = None
) -> Tensor:
    """(q_s · k_s - q_t · k_t)², averaged over all B · A · S · S scores (TinyBERT, equation 7).

    student, teacher: (query, key), each [B, A, S, H]; H may differ. A key set to zero makes its column of scores zero.

    With Q = [q_s, -q_t] and K = [k_s, k_t] the difference of the scores is Q Kᵀ, one product; the sum of its squares
    is also ⟨QᵀQ, KᵀK⟩, which needs no [S, S] tensor. by_gram chooses; by default the form with fewer operations.
    """
    query = torch.cat([student[0], -teacher[0].to(student[0].dtype)], dim=-1)  # [B, A, S, H_s + H_t]
    key = torch.cat([student[1], teacher[1].to(student[1].dtype)], dim=-1)
    length, width = query.shape[-2:]
    form = _Gram if (length > 2 * width if by_gram is None else by_gram) else _SumOfSquares
    return form.apply(query, key) / (query[..., 0].numel() * length)


class _Gram(torch.autograd.Function):
    """⟨QᵀQ, KᵀK⟩ of Q and K, [..., S, D] each, in float32 or more, as it subtracts large numbers. Both Gram matrices are
    symmetric, so that one product is the gradient of each side."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor) -> Tensor:
        ctx.kinds, dtype = (query.dtype, key.dtype), torch.promote_types(query.dtype, torch.float32)
        with torch.autocast(query.device.type, enabled=False):
            query, key = query.to(dtype), key.to(dtype)
            grams = query.mT @ query, key.mT @ key  # [..., D, D]
        ctx.save_for_backward(query, key, *grams)
        return (grams[0] * grams[1]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: Tensor):
        query, key, of_query, of_key = ctx.saved_tensors
        grads = query @ (of_key * (2 * scale)), key @ (of_query * (2 * scale))
        return tuple(grad.to(dtype) for grad, dtype in zip(grads, ctx.kinds, strict=True))


class _SumOfSquares(torch.autograd.Function):
    """Σ (query · key)² over all pairs of rows of query and key, [..., S, D] each. The products are kept for the gradient as
    they are, without a copy of them in float32."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor) -> Tensor:
        products = query @ key.mT  # [..., S, S]
        ctx.save_for_backward(query, key, products)
        dtype = torch.promote_types(products.dtype, torch.float32)
        return torch.linalg.vector_norm(products, dim=-1, dtype=dtype).square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, scale: Tensor):
        query, key, products = ctx.saved_tensors
        grads = (products @ key.to(products.dtype), products.mT @ query.to(products.dtype))
        return tuple(grad.to(query.dtype).mul_(2 * scale) for grad in grads)
