"""The works that findings refer to, so that a report prints its own bibliography."""

from __future__ import annotations

from dataclasses import dataclass

WORKS = {
    "1412.6572": ("I. J. Goodfellow, J. Shlens, C. Szegedy", "Explaining and Harnessing Adversarial Examples", 2015),
    "1704.05796": (
        "D. Bau, B. Zhou, A. Khosla, A. Oliva, A. Torralba",
        "Network Dissection: Quantifying Interpretability of Deep Visual Representations",
        2017,
    ),
    "1706.03825": (
        "D. Smilkov, N. Thorat, B. Kim, F. Viégas, M. Wattenberg",
        "SmoothGrad: removing noise by adding noise",
        2017,
    ),
    "1706.04599": ("C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger", "On Calibration of Modern Neural Networks", 2017),
    "1712.02779": (
        "L. Engstrom, B. Tran, D. Tsipras, L. Schmidt, A. Madry",
        "Exploring the Landscape of Spatial Robustness",
        2019,
    ),
    "1801.02612": (
        "C. Xiao, J.-Y. Zhu, B. Li, W. He, M. Liu, D. Song",
        "Spatially Transformed Adversarial Examples",
        2018,
    ),
    "1706.06083": (
        "A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu",
        "Towards Deep Learning Models Resistant to Adversarial Attacks",
        2018,
    ),
    "1708.07747": (
        "H. Xiao, K. Rasul, R. Vollgraf",
        "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
        2017,
    ),
    "1802.00420": (
        "A. Athalye, N. Carlini, D. Wagner",
        "Obfuscated Gradients Give a False Sense of Security: Circumventing Defenses to Adversarial Examples",
        2018,
    ),
    "1811.12231": (
        "R. Geirhos and others",
        "ImageNet-trained CNNs are biased towards texture; increasing shape bias improves accuracy and robustness",
        2019,
    ),
    "1902.06705": ("N. Carlini and others", "On Evaluating Adversarial Robustness", 2019),
    "1903.12261": (
        "D. Hendrycks, T. Dietterich",
        "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
        2019,
    ),
    "1906.08988": (
        "D. Yin, R. Gontijo Lopes, J. Shlens, E. D. Cubuk, J. Gilmer",
        "A Fourier Perspective on Model Robustness in Computer Vision",
        2019,
    ),
    "2003.01690": (
        "F. Croce, M. Hein",
        "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
        2020,
    ),
    "2009.11729": (
        "H. Zhang and others",
        "Interpreting and Boosting Dropout from a Game-Theoretic View",
        2021,
    ),
    "2102.12827": (
        "M. Pintor, F. Roli, W. Brendel, B. Biggio",
        "Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints",
        2021,
    ),
    "2108.06895": (
        "X. Wang, S. Lin, H. Zhang, Y. Zhu, Q. Zhang",
        "Interpreting Attributions and Interactions of Adversarial Attacks",
        2021,
    ),
    "2109.04553": (
        "Z. Geng, M.-H. Guo, H. Chen, X. Li, K. Wei, Z. Lin",
        "Is Attention Better Than Matrix Decomposition?",
        2021,
    ),
    "2109.14247": (
        "M. Xiao, Q. Meng, Z. Zhang, Y. Wang, Z. Lin",
        "Training Feedback Spiking Neural Networks by Implicit Differentiation on the Equilibrium State",
        2021,
    ),
    "2111.01996": (
        "K. Sun and others",
        "Pareto Adversarial Robustness: Balancing Spatial Robustness and Sensitivity-based Robustness",
        2021,
    ),
    "2111.03505": (
        "M. Li, S. Wang, Q. Zhang",
        "Visualizing the Emergence of Intermediate Visual Patterns in DNNs",
        2021,
    ),
    "2111.03536": (
        "J. Ren and others",
        "A Unified Game-Theoretic Interpretation of Adversarial Robustness",
        2021,
    ),
    "2111.06206": (
        "J. Ren, M. Li, Q. Chen, H. Deng, Q. Zhang",
        "Defining and Quantifying the Emergence of Sparse Concepts in DNNs",
        2023,
    ),
    "2111.06236": (
        "H. Deng, Q. Ren, H. Zhang, Q. Zhang",
        "Discovering and Explaining the Representation Bottleneck of DNNs",
        2022,
    ),
    "2008.08186": (
        "V. Papyan, X. Y. Han, D. L. Donoho",
        "Prevalence of Neural Collapse during the Terminal Phase of Deep Learning Training",
        2020,
    ),
    "2203.09081": (
        "Y. Yang, S. Chen, X. Li, L. Xie, Z. Lin, D. Tao",
        "Inducing Neural Collapse in Imbalanced Learning: Do We Really Need a Learnable Classifier at the End of Deep "
        "Neural Network?",
        2022,
    ),
    "1909.01377": ("S. Bai, J. Z. Kolter, V. Koltun", "Deep Equilibrium Models", 2019),
    "2111.05177": ("Z. Geng, X.-Y. Zhang, S. Bai, Y. Wang, Z. Lin", "On Training Implicit Models", 2021),
    "2112.00980": ("D. Liu and others", "Trap of Feature Diversity in the Learning of MLPs", 2021),
}


@dataclass(frozen=True)
class Entry:
    """One line of the bibliography; `key` is what findings wrote, `arxiv` the id where it is one."""

    number: int
    key: str
    text: str
    arxiv: str


def bibliography(keys: list[str]) -> tuple[Entry, ...]:
    """Return an entry per reference, in the order in which they are first used."""
    entries = []
    for rank, key in enumerate(dict.fromkeys(keys), start=1):
        arxiv = key.lower().removeprefix("arxiv:").strip()
        if arxiv in WORKS:
            authors, title, year = WORKS[arxiv]
            entries.append(Entry(rank, key, f"{authors}: {title} ({year}).", arxiv))
        else:
            entries.append(Entry(rank, key, "" if is_arxiv(arxiv) else key, arxiv if is_arxiv(arxiv) else ""))
    return tuple(entries)


def is_arxiv(text: str) -> bool:
    """Return whether a text has the form of an arXiv id, such as 2111.06236."""
    head, dot, tail = text.partition(".")
    return bool(dot) and len(head) == 4 and 4 <= len(tail) <= 5 and (head + tail).isascii() and (head + tail).isdigit()
