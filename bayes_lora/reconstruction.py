def hidden_tokens(backbone, rows, generator):
    raise NotImplementedError


def log_likelihood(backbone, batch):
    raise NotImplementedError
