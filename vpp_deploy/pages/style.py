"""The page's style sheet: light or dark as the reader's system is, on a phone or a wide screen."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f5f6f8; --text: #1c2128; --soft: #5a6472; --rule: #d9dee5;
  --c0: #8c98a8; --c1: #57606f; --c2: #3579bd; --c3: #e09f1f; --c4: #2b9a72;
  --c5: #7a5cc6; --c6: #d2544c; --c7: #e38ab0; --c8: #45aebf; --c9: #a9825f; --other: #c9ced6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #13161b; --card: #1c2128; --text: #e8ebef; --soft: #9ba6b4; --rule: #343b46;
    --c0: #97a3b3; --c1: #6d788a; --c2: #5a9bdc; --c3: #edb548; --c4: #44b98d;
    --c5: #9a80e2; --c6: #e4746c; --c7: #f0a3c4; --c8: #63c5d4; --c9: #c19c7a; --other: #4a5361;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem;
  background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .35rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; overflow-wrap: anywhere; }
p { margin: .3rem 0 .9rem; color: var(--soft); max-width: 46rem; overflow-wrap: anywhere; }
.cards { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.card { background: var(--card); border-radius: .6rem; padding: .9rem 1.1rem; }
.card h3 { margin: 0; }
.card p { margin: 0 0 .6rem; font-size: .82rem; }
.card .big { font-size: 1.7rem; font-weight: 600; color: var(--text); margin: 0; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem .9rem; margin: 0; }
dl { font-size: .88rem; font-variant-numeric: tabular-nums; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.card dd { text-align: right; }
.notes { border-left: 3px solid var(--c3); padding: .1rem 0 .1rem 1rem; margin: 1.2rem 0; }
.notes li { overflow-wrap: anywhere; } .notes ul { margin: .2rem 0; padding-left: 1.1rem; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: .2rem 0 .5rem; padding: 0; }
.legend li { display: flex; align-items: center; gap: .4rem; font-size: .84rem; list-style: none; }
.legend i { width: .85rem; height: .85rem; border-radius: .2rem; }
.chart { overflow-x: auto; }
.chart svg { display: block; width: 100%; min-width: 40rem; height: auto; }
.pair { display: grid; gap: .5rem 1.2rem; }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
.pair .chart svg { min-width: 20rem; max-width: 32rem; }
svg text { font-size: 12.5px; fill: var(--text); }
svg .tick, svg .label { fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .label { font-style: italic; }
svg .strong { font-weight: 600; }
svg .value { font-variant-numeric: tabular-nums; }
svg .grid, svg .rule { stroke: var(--rule); stroke-width: 1; }
svg line.mark { stroke: var(--text); stroke-width: 1.5; }
svg path.mark { fill: var(--text); }
svg .dashed { stroke: var(--c6); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg .curve { fill: none; stroke: var(--c2); stroke-width: 2; }
svg .area { fill: var(--c2); opacity: .15; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; }
table { font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--soft); white-space: nowrap; vertical-align: bottom; }
th.text, td.text { text-align: left; }
td.name { overflow-wrap: anywhere; min-width: 9rem; }
tr.sum td { font-weight: 600; }
.bar { display: inline-block; width: 6rem; height: .55rem; margin-left: .6rem; }
.bar { background: var(--rule); border-radius: .2rem; vertical-align: middle; }
.bar i { display: block; height: 100%; border-radius: .2rem; background: var(--c2); }
footer { margin-top: 3rem; font-size: .82rem; color: var(--soft); }
""" + "\n".join(
    f"svg .{name} {{ fill: var(--{name}); }} i.{name} {{ background: var(--{name}); }}"
    for name in (*(f"c{i}" for i in range(10)), "other")
)
