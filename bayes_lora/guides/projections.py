"""Which adapter weights are random in families that leave the others a point."""

from bayes_lora.model import BayesianModel, Site


def projections(model: BayesianModel) -> frozenset[str]:
    """Name the sites that read a layer's inputs: of a product B A, all of the A's.

    Of an adapter without such a product: the factors that do not start at zero; if all do
    (LoRA-XS's R), all of them.
    """
    downs = {down for _, down in products(model)}
    found: set[str] = set()
    for effect in model.adapters:
        own = {name for name, site in model.sites.items() if site.key and site.key[0] == effect}
        started = {name for name in own if model.sites[name].start.any()}
        found |= own & downs or started or own
    return frozenset(found)


def products(model: BayesianModel) -> list[tuple[str, str]]:
    """List the pairs of sites, B and A, of which an update knows their product B A alone."""
    by_key = {site.key: site for site in model.sites.values() if site.key}
    found = []
    for (effect, group, factor), down in by_key.items():
        names = model.adapters[effect].product
        if names is None or factor != names[1] or (effect, group, "lora_E") in by_key:
            continue  # lora_E is what PEFT's AdaLoRA has between the two
        up = by_key.get((effect, group, names[0]))
        if up is not None and _multiply(up, down):
            found.append((up.name, down.name))
    return found


def _multiply(up: Site, down: Site) -> bool:
    """Whether two stacks of matrices have a product, layer by layer."""
    matrices = len(up.shape) == len(down.shape) == 3
    return matrices and (up.shape[0], up.shape[2]) == down.shape[:2]
