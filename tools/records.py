"""Training records to token ids and labels, by transformers' tokenizer and chat template.

The loss mask is found on token ids, not on the rendered text as Lowtide does it: a turn of the
assistant begins with the first token that is not one of those that open the turn, and ends with the
last special token.
"""

import json
from os.path import commonprefix

NO_LOSS = -100


class Reader:
    """Reads records; `max_seq_len` tokens of each are kept, and none without a label left."""

    def __init__(self, tokenizer, max_seq_len):
        self.tokenizer, self.max_seq_len = tokenizer, max_seq_len

    def read(self, path, limit=None):
        """The examples of a JSON lines file, `(ids, labels)` each."""
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        examples = (self.example(json.loads(line)) for line in lines[:limit])
        cut = ((ids[: self.max_seq_len], labels[: self.max_seq_len]) for ids, labels in examples)
        return [(ids, labels) for ids, labels in cut if any(x != NO_LOSS for x in labels[1:])]

    def example(self, record):
        """Ids and labels of one record, not cut."""
        if "input_ids" in record:
            ids = record["input_ids"]
            return ids, record.get("labels", ids)
        if "messages" in record:
            return self.conversation(record["messages"])
        if "prompt" in record and "completion" in record:
            user = {"role": "user", "content": record["prompt"]}
            assistant = {"role": "assistant", "content": record["completion"]}
            return self.conversation([user, assistant])
        expected = "`input_ids`, `messages`, or `prompt` and `completion`"
        raise ValueError(f"a record with the keys {sorted(record)}; expected {expected}")

    def conversation(self, messages):
        """A conversation with loss on every turn of the assistant."""
        ids = self.tokens(messages)
        labels = [NO_LOSS] * len(ids)
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = dict(conversation=messages[:i], add_generation_prompt=True)
            if not self.text(messages).startswith(self.text(**before)):
                raise ValueError("the template renders a part of a conversation unlike the whole")
            # A response may begin with white space that joins the opening's last token.
            begin = len(commonprefix([ids, self.tokens(**before)]))
            special = self.tokenizer.all_special_ids
            turn = self.tokens(messages[: i + 1])
            end = max(at for at, token in enumerate(turn) if token in special) + 1
            labels[begin:end] = ids[begin:end]
        return ids, labels

    def text(self, conversation, **options):
        return self.tokenizer.apply_chat_template(conversation, tokenize=False, **options)

    def tokens(self, conversation, **options):
        text = self.text(conversation, **options)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
