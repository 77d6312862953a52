"""Trains a small model with one process a GPU; torchrun starts it. Replace model and data by yours."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def data() -> TensorDataset:
    """A linear problem that a linear model can solve."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 16, generator=generator)
    return TensorDataset(x, x @ torch.arange(16.0).unsqueeze(1))


def main() -> None:
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    rank = dist.get_rank()
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)

    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(16, 1).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    dataset = data()
    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=64, sampler=sampler)

    for epoch in range(5):
        sampler.set_epoch(epoch)
        total = torch.zeros((), device=device)
        for x, y in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x.to(device)), y.to(device))
            loss.backward()
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        if rank == 0:
            steps = len(loader) * dist.get_world_size()
            print(f"epoch {epoch}: loss {total.item() / steps:.4f} on {dist.get_world_size()} processes", flush=True)

    dist.destroy_process_group()


if __name__ == "__main__":
    main()
