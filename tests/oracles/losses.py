"""The papers' equations in NumPy, in float64 and with loops where loops read like the equation. None of our code."""

import numpy as np


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def kl_divergence(student, teacher, temperature):
    """DistilBERT: T² Σ_c q_t log(q_t / q_s) for each row, then the mean over rows."""
    q_s, q_t = softmax(student / temperature), softmax(teacher / temperature)
    return np.mean([temperature**2 * np.sum(t * (np.log(t) - np.log(s))) for s, t in zip(q_s, q_t, strict=True)])


def soft_cross_entropy(student, teacher, temperature):
    """TinyBERT, equation 10, mean over rows."""
    q_s, q_t = softmax(student / temperature), softmax(teacher / temperature)
    return np.mean([-np.sum(t * np.log(s)) for s, t in zip(q_s, q_t, strict=True)])


def cross_entropy(logits, labels):
    """Masked LM and hard labels: mean of -log p[label]."""
    return np.mean([-np.log(p[label]) for p, label in zip(softmax(logits), labels, strict=True)])


def cosine_distance(student, teacher):
    """DistilBERT: mean over rows of 1 - cos."""
    rows = zip(student, teacher, strict=True)
    return np.mean([1 - s @ t / np.sqrt((s @ s) * (t @ t)) for s, t in rows])


def attention_official(student, teacher, mask):
    """TinyBERT's release: scores of masked keys become 0 in both, then the mean over all B · A · L · L entries."""
    (q_s, k_s), (q_t, k_t) = student, teacher
    size, heads, length, _ = q_s.shape
    total = 0.0
    for b in range(size):
        for a in range(heads):
            for j in range(length):
                for i in range(length):
                    if mask[b, i]:
                        total += (q_s[b, a, j] @ k_s[b, a, i] - q_t[b, a, j] @ k_t[b, a, i]) ** 2
    return total / (size * heads * length * length)


def attention_valid(student, teacher, mask):
    """Real queries and real keys only, divided by A · Σ_b n_b²."""
    (q_s, k_s), (q_t, k_t) = student, teacher
    total = count = 0.0
    for b in range(len(q_s)):
        n = int(mask[b].sum())
        for a in range(q_s.shape[1]):
            scores_s = q_s[b, a, :n] @ k_s[b, a, :n].T
            scores_t = q_t[b, a, :n] @ k_t[b, a, :n].T
            total += np.square(scores_s - scores_t).sum()
            count += n * n
    return total / count


def hidden_error(student, teacher, weight, bias):
    """TinyBERT: mean over all entries of (H_s W + b - H_t)²; weight [D_teacher, D_student]."""
    return np.mean((student @ weight.T + bias - teacher) ** 2)
