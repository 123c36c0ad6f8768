"""What the sample class wrote into notebook 04 (see ``sample_class``): right in another way, and wrong."""

OTHER_WAYS = {
    "4.1": """
        flat = h.transpose(0, 1).reshape(h.shape[1], -1)
        mean = flat.sum(dim=1) / flat.shape[1]
        return {
            "zeros": (flat == 0).sum(dim=1) / flat.shape[1],
            "variance": (flat - mean[:, None]).square().mean(dim=1),
            "mean": mean,
        }
        """,
    "4.2": """
        use = weights.sum(dim=0)
        return torch.stack([column.max() / column.sum() for column in use.T])
        """,
    "4.3": """
        outs = []
        for w, g, b in zip(W, gamma, beta):
            outs.append(F.silu(F.batch_norm(x @ w.T, None, None, g, b, training=True)))
        return torch.stack(outs, dim=1)
        """,
    "4.4": """
        owners = [("task", t) for t in range(len(groups)) for _ in range(own)]
        owners += [("category", c) for c in range(max(groups) + 1) for _ in range(local)]
        owners += ["all"] * shared
        rows = []
        for t, c in enumerate(groups):
            rows.append([owner in (("task", t), ("category", c), "all") for owner in owners])
        return torch.tensor(rows)
        """,
    "4.5": """
        share = torch.einsum("bd,ld->bl", x, W).softmax(1)
        total = torch.zeros_like(x)
        for l in range(len(W)):
            total = total + share[:, l : l + 1] * 2 / (1 + torch.exp(-(x @ down[l] @ up[l])))
        return total * x
        """,
    "4.6": """
        z = x @ W.t()
        if W.shape[0] == 1:
            return mixture + torch.sigmoid(z) * experts.squeeze(1)
        return mixture + torch.bmm(z.softmax(-1).unsqueeze(1), experts).squeeze(1)
        """,
    "4.7": """
        h = self.experts(self.feature_gates(x))
        return layers.mix(self.gates(given), h) + layers.mix(self.self_gates(given), h)
        """,
    "4.8": """
        away = ["level 2: B's own experts", "level 2: the experts of C's category"]
        away += ["level 1: the gate of C's category", "level 1: the self gate of C's category"]
        near = ["level 2: the experts of A's category", "level 2: the shared experts"]
        near += ["level 1: the experts of C's category", "level 1: the feature gate of C's category"]
        return dict.fromkeys(away, False) | dict.fromkeys(near, True)
        """,
    "4.9": """
        z = self.meta(x, x).unbind(1)
        inputs = [z[c] for c in self.groups] + list(z)
        both = [torch.hstack([z[c], z[self.C]]) for c in range(self.C)]
        h = self.task(torch.stack(inputs, 1), torch.stack(both, 1)).unbind(1)
        return torch.hstack([tower(row) for tower, row in zip(self.towers, h)])
        """,
    "4.10": """
        words = name.replace("HoME", "").replace("w/o", "").split("-")
        words = {word.strip() for word in words}
        return {
            "mask": not words & {"mask"},
            "self_gates": not words & {"sg"},
            "feature_gates": [not words & {"fg"}, not words & {"fg", "fg2"}],
        }
        """,
}
WRONG = {
    "4.1": """
        zeros = (h == 0).float().mean(dim=(0, 2))
        return {"mean": h.mean(dim=(0, 2)), "variance": h.var(dim=(0, 2)), "zeros": zeros}
        """,
    "4.2": "return weights.mean(dim=0).amax(dim=0)",
    "4.3": """
        z = torch.einsum("bd,ehd->beh", x, W)
        mean, variance = z.mean(dim=2, keepdim=True), z.var(dim=2, correction=0, keepdim=True)
        return F.silu(gamma * (z - mean) / (variance + 1e-5).sqrt() + beta)
        """,
    "4.4": """
        C = max(groups) + 1
        rows = []
        for t, category in enumerate(groups):
            row = [groups[k] == category for k in range(len(groups)) for _ in range(own)]
            row += [c == category for c in range(C) for _ in range(local)]
            rows.append(row + [True] * shared)
        return torch.tensor(rows)
        """,
    "4.5": """
        logits = torch.einsum("blr,lrc->blc", torch.einsum("bd,ldr->blr", x, down), up)
        weights = torch.softmax(x @ W.T, dim=1)
        return x * torch.sigmoid(torch.einsum("bl,blc->bc", weights, logits))
        """,
    "4.6": """
        weights = torch.softmax(x @ W.T, dim=1)
        return mixture + torch.einsum("bk,bkh->bh", weights, experts)
        """,
    "4.7": """
        v = self.feature_gates(x)
        return layers.mix(self.gates(v) + self.self_gates(v), self.experts(v))
        """,
    "4.8": """
        return {
            "level 2: B's own experts": False,
            "level 2: the experts of A's category": True,
            "level 2: the experts of C's category": False,
            "level 2: the shared experts": True,
            "level 1: the experts of C's category": False,
            "level 1: the gate of C's category": False,
            "level 1: the self gate of C's category": False,
            "level 1: the feature gate of C's category": False,
        }
        """,
    "4.9": """
        z = self.meta(x, x)
        everywhere = z[:, -1:].expand(-1, len(self.groups) + self.C + 1, -1)
        both = torch.cat([z[:, :-1], z[:, -1:].expand_as(z[:, :-1])], dim=2)
        h = self.task(everywhere, both)
        return torch.cat([tower(h[:, t]) for t, tower in enumerate(self.towers)], dim=1)
        """,
    "4.10": """
        return {
            "feature_gates": ("fg" not in name, "fg" not in name),
            "self_gates": "sg" not in name,
            "mask": "mask" not in name,
        }
        """,
}
