"""Digits with Accelerate: a small network that reads drawn numbers, on any number of ranks.

    envkit run train                                          ranks by envkit
    docker run --rm -v "$(pwd)":/workspace digits:python-cpu accelerate launch train.py

The digits are drawn here, so that nothing is downloaded: seven strokes as on a calculator, shifted,
with noise.
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

#            top, upper left, upper right, middle, lower left, lower right, bottom
STROKES = ["1110111", "0010010", "1011101", "1011011", "0111010",
           "1101011", "1101111", "1010010", "1111111", "1111011"]
PLACES = [(slice(1, 3), slice(2, 8)), (slice(1, 8), slice(1, 3)), (slice(1, 8), slice(7, 9)),
          (slice(7, 9), slice(2, 8)), (slice(7, 14), slice(1, 3)), (slice(7, 14), slice(7, 9)),
          (slice(13, 15), slice(2, 8))]


def draw(count, seed):
    generator = torch.Generator().manual_seed(seed)
    digits = torch.zeros(10, 16, 10)
    for digit, strokes in enumerate(STROKES):
        for place, on in zip(PLACES, strokes):
            if on == "1":
                digits[(digit, *place)] = 1
    labels = torch.randint(10, (count,), generator=generator)
    images = torch.zeros(count, 1, 20, 20)
    shifts = torch.randint(0, 5, (count, 2), generator=generator).tolist()
    for image, label, (down, right) in zip(images, labels.tolist(), shifts):
        image[0, down:down + 16, right + 2:right + 12] = digits[label]
    images += 0.5 * torch.randn(images.shape, generator=generator)
    return TensorDataset(images, labels)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()

    accelerator = Accelerator()
    set_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 5), nn.ReLU(),
                          nn.Flatten(), nn.Linear(32 * 16, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    train = DataLoader(draw(4096, seed=1), batch_size=64, shuffle=True)
    test = DataLoader(draw(1024, seed=2), batch_size=256)
    model, optimizer, train, test = accelerator.prepare(model, optimizer, train, test)
    accelerator.print(f"{accelerator.num_processes} ranks, {accelerator.device}, "
                      f"{accelerator.distributed_type}")
    for epoch in range(1, options.epochs + 1):
        model.train()
        for images, labels in train:
            loss = nn.functional.cross_entropy(model(images), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        right = total = 0
        for images, labels in test:
            with torch.no_grad():
                guesses = model(images).argmax(1)
            guesses, labels = accelerator.gather_for_metrics((guesses, labels))
            right += (guesses == labels).sum().item()
            total += len(labels)
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}, accuracy {right / total:.4f} "
                          f"of {total}")
    accelerator.save_model(model, "model")
    accelerator.end_training()


if __name__ == "__main__":
    main()
