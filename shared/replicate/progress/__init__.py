"""
Reads a training's progress from its log. Pure.

Trainers write for people: a bar for each thing they do, redrawn over and over between free text. So a log is read from
its end, and the first count that is the training's own decides. What tells it from downloads, caches and samples:

1. A word or unit that names other work (``Caching latents``, ``5.5MB/s``) rules it out, whatever it counts to, but for
   a bar with a learning rate: people call their jobs anything, and nothing else learns. Words before a count name what
   it counts; words behind it only where they are its unit (``3/9 images``) or its title (``Step 3: loading weights``).
2. Else it counts to the number of steps that the training was asked for, or else, that the log announces.
3. Or it shows a loss, or calls itself training, step or epoch; but a few steps with a title are stages of the job.
4. Or no number of steps is known, and it is long: preparations walk over a handful of images. Such a bar is other work
   where the line above its first drawing announces that, and where the bar above it is unfinished or one as in 2 and
   3: an evaluation. Below a longer bar that is finished, it may be either, so the log says nothing.

A count within one epoch is put in its place among all epochs. The epoch stands in the count's name, at the line's
start, in a bar of epochs or in a heading. A bar of steps next to an epoch counts those of all epochs, unless it has
begun anew; steps in words begin anew. What says less (a percentage, an epoch, a step of an unknown total) is used only
where nothing counts. In doubt there is no progress: a wrong number is worse than none, because the product can
estimate.

*plan*   how long the training was asked to be
*lines*  the log's lines, last one first, and what is known of it as a whole
*counts* what a line counts, and what stands around it
*words*  which words and units name other work
*epochs* where in the whole training a count is
*hints*  what says less than a count
*choice* which count is the training's
"""

from shared.replicate.progress.choice import read_progress
from shared.replicate.progress.epochs import Progress
from shared.replicate.progress.plan import configured_steps

__all__ = ["Progress", "configured_steps", "read_progress"]
