"use strict";
// Who detects a token or an n-gram: what `pyneurons which` answers.
(page => {
  page.strings = run => page.block(`r${run}/tokens`).then(block => block.strings);

  // Detectors one of whose n-grams reads exactly so; and those where it stands in an n-gram.
  page.search = async (run, text) => {
    const wanted = page.visible(text);
    const [strings, found] = await Promise.all([page.strings(run), page.block(`r${run}/detectors`)]);
    const exact = [];
    const within = [];
    let at = 0;
    for (let i = 0; i < found.n.length; i++) {
      const n = found.n[i];
      for (let g = found.starts[i]; g < found.starts[i + 1]; g++, at += n) {
        const tokens = Array.from(found.tokens.subarray(at, at + n), id => strings[id]);
        const reads = tokens.join("");
        const same = reads === wanted;
        if (same || reads.includes(wanted)) {
          (same ? exact : within).push({layer: found.layer[i], neuron: found.neuron[i], n, tokens,
            fires: found.fires[i], coverage: found.coverage[i]});
        }
      }
    }
    return {exact, within};
  };
})(window.pyneurons);
