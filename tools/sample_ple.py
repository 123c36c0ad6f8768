"""What the sample class wrote into notebook 03 (see ``sample_class``): right in another way, and wrong."""

OTHER_WAYS = {
    "3.1": """
        owner = [task for task, n in enumerate([*own, shared]) for _ in range(n)]
        return torch.tensor([[o in (task, len(own)) for o in owner] for task in range(len(own))])
        """,
    "3.2": """
        out = torch.zeros(len(x), *visible.shape, dtype=x.dtype, device=x.device)
        for task, seen in enumerate(visible):
            out[:, task, seen] = (x @ W[task, seen].T).softmax(dim=1)
        return out
        """,
    "3.3": """
        h = torch.stack([expert(x).clamp(min=0) for expert in self.experts], dim=1)
        shared = list(range(self.T * self.own, h.shape[1]))
        out = []
        for t, (gate, tower) in enumerate(zip(self.gates, self.towers)):
            columns = list(range(t * self.own, t * self.own + self.own)) + shared
            out.append(tower(torch.einsum("be,beh->bh", gate(x).softmax(1), h[:, columns])))
        return torch.hstack(out)
        """,
    "3.4": """
        rows = []
        for k in range(len(W)):
            logits = g[:, k] @ W[k].T
            if k < len(visible):
                logits = logits.masked_fill(~visible[k], float("-inf"))
            rows.append((logits.softmax(1).unsqueeze(2) * experts).sum(1))
        return torch.stack(rows, dim=1)
        """,
    "3.5": """
        own, shared = self.first(x).split([len(self.towers), 1], dim=1)
        z = self.second(torch.cat([own, shared], dim=1)).unbind(1)
        return torch.stack([tower(each).squeeze(1) for tower, each in zip(self.towers, z)], dim=1)
        """,
    "3.7": """
        total = 0 * logits.sum()
        for t in range(logits.shape[1]):
            known = ~labels[:, t].isnan()
            if known.any():
                loss = F.binary_cross_entropy_with_logits(logits[known, t], labels[known, t])
                total = total + start[t] * ratio[t] ** epoch * loss
        return total
        """,
    "3.8": """
        d = together - alone
        return {"error": (d.var(dim=0) / d.shape[0]).sqrt(), "mean": together.mean(0) - alone.mean(0)}
        """,
    "3.9": """
        place = {name: i for i, name in enumerate(names)}
        return torch.stack([columns[:, place[task]] for task in tasks], dim=1)
        """,
}
TRAINED = """
return {
    "one level: B's experts": False,
    "one level: the shared experts": True,
    "two levels: B's experts of level 1": False,
    "two levels: B's experts of level 2": False,
    "two levels: the shared gate of level 1": True,
    "two levels: B's gate of level 1": False,
    "two levels: B's tower": False,
}
"""
WRONG = {
    "3.1": "return torch.ones(len(own), sum(own) + shared, dtype=torch.bool)",
    "3.2": 'return torch.einsum("bd,ted->bte", x, W).softmax(dim=2) * visible',
    "3.3": """
        h = torch.stack([torch.relu(expert(x)) for expert in self.experts], dim=1)
        out = []
        for t, tower in enumerate(self.towers):
            seen = torch.cat([h[:, t * self.own : (t + 1) * self.own], h[:, self.T * self.own :]], dim=1)
            out.append(tower((self.gates[0](x).softmax(dim=1).unsqueeze(2) * seen).sum(dim=1)))
        return torch.cat(out, dim=1)
        """,
    "3.4": """
        logits = torch.einsum("bgd,ged->bge", g[:, :-1], W[:-1])
        return logits.masked_fill(~visible, -torch.inf).softmax(dim=2) @ experts
        """,
    "3.5": """
        z = self.second(x).unbind(1)
        return torch.cat([tower(each) for tower, each in zip(self.towers, z)], dim=1)
        """,
    "3.6": TRAINED,
    "3.7": """
        each = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
        losses = (each * ~labels.isnan()).mean(dim=0)
        return (start * ratio**epoch * losses).sum()
        """,
    "3.8": """
        difference = together - alone
        return {"mean": difference.mean(dim=0), "error": difference.std(dim=0)}
        """,
    "3.9": "return columns[:, [i for i, name in enumerate(names) if name in tasks]]",
}
