// One dashboard as a page: the queries, the grid, and what is told of each panel.
import { DataFrame, dateTime, locationUtil, ThemeContext, TimeRange } from '@grafana/data';
import { GlobalStyles, PanelChrome } from '@grafana/ui';
import React from 'react';
import { createRoot } from 'react-dom/client';

import { prepare, prepareRegistries, theme } from './fields';
import { Body, STAND_INS } from './panels';
import { findMarks, runQueries } from './prometheus';
import { Job, Mark, Panel, PanelReport, Report, Variable } from './shapes';
import { fillIn, pickValues, unresolved, Values } from './variables';

declare global {
  interface Window {
    job: Job;
    report?: Report;
    /** Makes the window as high as the page: tables draw only what is in sight. */
    grow: (height: number) => Promise<void>;
  }
}

// Grafana's grid: 24 columns, rows of 30 pixels, 8 between them; below 768 pixels one column.
const COLUMNS = 24;
const ROW = 30;
const GAP = 8;
const EDGE = 16;
const ONE_COLUMN_BELOW = 768;
const HEAD = 52;
const CHIPS = 32;
const SETTLE_MS = 1500;

interface Drawn {
  panel: Panel;
  title: string;
  data: DataFrame[];
  place: { left: number; top: number; width: number; height: number };
}

class Guard extends React.Component<React.PropsWithChildren, { error?: Error }> {
  state: { error?: Error } = {};
  static getDerivedStateFromError(error: Error) {
    return { error };
  }
  render() {
    return this.state.error ? <pre data-threw>{String(this.state.error.stack).slice(0, 500)}</pre> : this.props.children;
  }
}

function each(panels: Panel[]): Panel[] {
  return panels.flatMap((panel) => [panel, ...each(panel.panels ?? [])]);
}

/** Panels of a collapsed row stand where they would if it were open, and push down what follows. */
function opened(panels: Panel[]): Panel[] {
  let down = 0;
  return panels.flatMap((panel) => {
    const moved = { ...panel, gridPos: { ...panel.gridPos, y: panel.gridPos.y + down } };
    const inside = panel.panels ?? [];
    const first = Math.min(...inside.map(({ gridPos }) => gridPos.y));
    const last = Math.max(...inside.map(({ gridPos }) => gridPos.y + gridPos.h));
    const begin = moved.gridPos.y + 1;
    down += inside.length ? last - first : 0;
    return [moved, ...inside.map((one) => ({ ...one, gridPos: { ...one.gridPos, y: one.gridPos.y - first + begin } }))];
  });
}

/** How high what stands above the panels is: a line of variables, or two in each line on a telephone. */
function headHeight(job: Job, width: number): number {
  return HEAD + CHIPS * (width < ONE_COLUMN_BELOW ? Math.ceil(shownVariables(job).length / 2) : 1);
}

function shownVariables(job: Job): Variable[] {
  return (job.dashboard.templating?.list ?? []).filter((one) => one.hide !== 2);
}

function places(panels: Panel[], width: number, head: number): Array<Drawn['place']> {
  const inner = width - 2 * EDGE;
  const high = (rows: number) => rows * (ROW + GAP) - GAP;
  if (width < ONE_COLUMN_BELOW) {
    let top = head;
    return panels.map(({ gridPos }) => {
      const place = { left: EDGE, top, width: inner, height: high(gridPos.h) };
      top += place.height + GAP;
      return place;
    });
  }
  const column = (inner - GAP * (COLUMNS - 1)) / COLUMNS;
  return panels.map(({ gridPos: { x, y, w, h } }) => ({
    left: EDGE + x * (column + GAP),
    top: head + y * (ROW + GAP),
    width: w * column + (w - 1) * GAP,
    height: high(h),
  }));
}

function Head({ job, values, height }: { job: Job; values: Values; height: number }) {
  const chip = { border: `1px solid ${theme.colors.border.medium}`, borderRadius: 2, padding: '2px 8px', whiteSpace: 'nowrap' } as const;
  return (
    <div style={{ height, padding: `12px ${EDGE}px`, overflow: 'hidden' }}>
      <div style={{ fontSize: 18, marginBottom: 8 }}>{job.dashboard.title}</div>
      <div style={{ display: 'flex', flexWrap: 'wrap', gap: 8, fontSize: 12 }}>
        {shownVariables(job).map((one) => <span key={one.name} style={chip}>{one.label || one.name}: {values.get(one.name)?.text}</span>)}
      </div>
    </div>
  );
}

function Place({ drawn, values, range, marks, errors }: { drawn: Drawn; values: Values; range: TimeRange; marks: Mark[]; errors: string[] }) {
  const { panel, title, data, place } = drawn;
  const style = { position: 'absolute', ...place } as const;
  if (panel.type === 'row') {
    return <div style={{ ...style, fontSize: 16, fontWeight: 500, paddingTop: 4 }}>▾ {title}</div>;
  }
  const padding = panel.type === 'table' ? 'none' : 'md';
  return (
    <div style={style} data-panel={panel.id}>
      <PanelChrome title={title} description={panel.description ? fillIn(panel.description, values, 'text') : undefined}
        width={place.width} height={place.height} padding={padding} statusMessage={errors.join(' ') || undefined}
        displayMode={panel.transparent ? 'transparent' : 'default'}>
        {(width, height) => (
          <Guard>
            <Body panel={panel} data={data} values={values} range={range} marks={marks} width={width} height={height} />
          </Guard>
        )}
      </PanelChrome>
    </div>
  );
}

/** Returns the texts of a panel that don't fit, and the columns of a table that have to be scrolled to. */
function cut(element: Element): string[] {
  const edge = element.getBoundingClientRect();
  const found = new Set<string>();
  for (const one of element.querySelectorAll<HTMLElement>('*')) {
    const text = [...one.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.textContent).join('').trim();
    if (!text || one.closest('[role=tooltip], style')) {
      continue;
    }
    const box = one.getBoundingClientRect();
    const hidden = getComputedStyle(one).overflow !== 'visible' && one.scrollWidth > one.clientWidth + 1;
    const scrolls = one.closest('[role=grid]');
    const outside = !scrolls && (box.right > edge.right + 1 || box.left < edge.left - 1 || box.bottom > edge.bottom + 1);
    if (box.width && (hidden || outside)) {
      found.add(text);
    }
  }
  for (const one of element.querySelectorAll<HTMLElement>('[role=gridcell]')) {
    // What is aligned to the right is cut at its left, which no width tells.
    const [cell, words] = [one.getBoundingClientRect(), document.createRange()];
    words.selectNodeContents(one);
    const box = words.getBoundingClientRect();
    if (box.left < cell.left - 1 || box.right > cell.right + 1) {
      found.add(one.innerText.trim());
    }
  }
  for (const one of element.querySelectorAll<HTMLElement>('[role=columnheader]')) {
    if (one.getBoundingClientRect().right > edge.right + 1) {
      found.add(`column ${one.innerText.trim()}`);
    }
  }
  return [...found];
}

function look(report: PanelReport, panel: Panel): void {
  const element = document.querySelector<HTMLElement>(`[data-panel="${panel.id}"]`);
  if (!element) {
    report.threw = 'is not on the page';
    return;
  }
  report.threw = element.querySelector('[data-threw]')?.textContent ?? '';
  report.unsupported = element.querySelector('[data-unsupported]') !== null;
  report.text = element.innerText.replace(/\s+/g, ' ').slice(0, 400);
  report.cut = cut(element);
  const words = element.querySelector('[data-empty]')?.getAttribute('data-empty');
  const drawn = element.querySelector('canvas, rect, [role=gridcell]') !== null || report.text.length > report.title.length;
  const reason: string = panel.fieldConfig?.defaults?.noValue ?? 'No data';
  report.empty = words ?? (!drawn ? reason : report.rows || panel.type === 'text' ? '' : reason);
  report.blank = report.empty !== '' && !report.text.includes(report.empty.replace(/\s+/g, ' '));
}

async function main(job: Job): Promise<Report> {
  prepareRegistries();
  locationUtil.initialize({ config: { appSubUrl: '' } as any, getTimeRangeForUrl: () => ({ from: 'now-1h', to: 'now' }), getVariablesUrlParams: () => ({}) });
  const [from, to] = [dateTime(job.from * 1000), dateTime(job.to * 1000)];
  const range: TimeRange = { from, to, raw: { from, to } };
  const values = await pickValues(job.dashboard.templating?.list ?? [], job);
  const marks = await findMarks(job.dashboard.annotations?.list ?? [], values, range, job);
  const panels = opened(job.dashboard.panels);
  panels.sort((a, b) => a.gridPos.y - b.gridPos.y || a.gridPos.x - b.gridPos.x);
  const width = document.documentElement.clientWidth;
  const head = headHeight(job, width);
  const where = places(panels, width, head);
  const reports = new Map<Panel, PanelReport>();
  const drawn: Drawn[] = [];
  for (const [index, panel] of panels.entries()) {
    const title = fillIn(panel.title, values, 'text');
    const { frames, errors } = await runQueries(panel, values, range, job, where[index].width);
    let data: DataFrame[] = [];
    try {
      data = await prepare(panel, frames, values);
    } catch (error) {
      errors.push(String(error));
    }
    drawn.push({ panel, title, data, place: where[index] });
    if (panel.type !== 'row') {
      const rows = data.reduce((sum, frame) => sum + frame.length, 0);
      const standIn = STAND_INS.has(panel.type);
      reports.set(panel, {
        id: panel.id, title, type: panel.type, series: frames.length, rows, errors, standIn, threw: '', empty: '', blank: false, unsupported: false, cut: [], text: '',
      });
    }
  }
  const root = document.getElementById('root')!;
  const height = Math.max(...where.map((place) => place.top + place.height)) + EDGE;
  root.style.height = `${height}px`;
  await window.grow(Math.ceil(height));
  createRoot(root).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Head job={job} values={values} height={head} />
      {drawn.map((one) => (
        <Place key={one.panel.id} drawn={one} values={values} range={range} marks={marks} errors={reports.get(one.panel)?.errors ?? []} />
      ))}
    </ThemeContext.Provider>
  );
  await document.fonts.ready;
  await new Promise((done) => setTimeout(done, SETTLE_MS));
  reports.forEach(look);
  return { title: job.dashboard.title, panels: [...reports.values()], marks: marks.length, unresolved: [...unresolved], fatal: '' };
}

main(window.job).then(
  (report) => (window.report = report),
  (error) => (window.report = { title: '', panels: [], marks: 0, unresolved: [], fatal: String(error?.stack ?? error) })
);
