"""Sum rank + 1 over all ranks with gloo. Rank 0 writes the number of ranks and the sum to sum.txt."""

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
if dist.get_rank() == 0:
    with open("sum.txt", "w") as file:
        file.write(f"{dist.get_world_size()} {total.item()}")
dist.destroy_process_group()
