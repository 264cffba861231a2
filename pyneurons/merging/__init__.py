"""Runs of one model over disjoint corpora joined into one: what adds up, exactly; what does not, in bounds.

``parts``       runs opened and compared; the order of their rows in the merged run
``counters``    counters that add up
``histograms``  how many n-grams have which count: bounds on any covering number
``lists``       n-grams that trigger a neuron, with bounds where a run does not list all
``bits``        the bits of all runs, where they were kept: everything again, exactly
``examples``    firing positions

Everything here is a function of the set of scans that are joined: the order and the grouping of merges
make no difference to any byte.
"""
