"""The whole job on arrays: the schedule of scales, the run over them, `stylize`."""
