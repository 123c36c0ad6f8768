"""What the sample class wrote into notebook 05 (see ``sample_class``): right in another way, and wrong."""

TABLE = '''
return """
model,seed,parameters,click,like
SharedBottom,1,5000,0.71,0.74
SharedBottom,2,5000,0.72,0.76
SharedBottom,3,5000,0.70,0.75
PLE,1,{size},0.70,0.76
PLE,2,{size},0.72,0.75
PLE,3,{size},0.71,0.77
CGC,1,5100,0.71,0.75
CGC,2,5100,0.71,0.76
CGC,3,5100,0.70,0.75
"""
'''
OTHER_WAYS = {
    "5.2": """
        best = min(range(len(counts)), key=lambda i: abs(float(counts[i]) - budget))
        return {"gap": (counts[best] - budget) / budget, "width": best + 1}
        """,
    "5.3": TABLE.format(size=5150),
    "5.4": "return torch.exp((predictions.log() * powers).sum(dim=-1))",
    "5.5": """
        frame = pd.DataFrame(labels.numpy()).assign(score=scores.numpy(), user=users.numpy())
        top = frame.sort_values("score").groupby("user").tail(k).drop(columns="score")
        return torch.tensor(top.groupby("user").mean().mean().to_numpy())
        """,
}
WRONG = {
    "5.2": """
        place = int((counts <= budget).sum()) - 1
        return {"width": max(place, 0) + 1, "gap": float(counts[max(place, 0)] / budget - 1)}
        """,
    "5.3": TABLE.format(size=9000),
    "5.4": "return (predictions * powers).sum(dim=1)",
    "5.5": """
        best = scores.argsort(descending=True)[:k]
        return labels[best].mean(dim=0)
        """,
}
