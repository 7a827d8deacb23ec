// Queries to Prometheus, and their answers as the frames that Grafana's data source makes of them.
import { DataFrame, FieldType, rangeUtil, TimeRange, toDataFrame } from '@grafana/data';

import { Annotation, Job, Mark, Panel, Target } from './shapes';
import { fillIn, Values } from './variables';

interface Series {
  metric: Record<string, string>;
  value?: [number, string];
  values?: Array<[number, string]>;
}

/** The path under which render.ts passes questions on to Prometheus. */
const API = '/prometheus/api/v1/';
const DEFAULT_POINTS = 1000;

async function get(path: string, parameters: Record<string, string>): Promise<any> {
  const answer = await (await fetch(`${API}${path}?${new URLSearchParams(parameters)}`)).json();
  if (answer.status !== 'success') {
    throw new Error(answer.error);
  }
  return answer.data;
}

export async function ask(path: 'query' | 'query_range', parameters: Record<string, string>): Promise<Series[]> {
  const { result, resultType } = await get(path, parameters);
  return resultType === 'scalar' || resultType === 'string' ? [{ metric: {}, value: result }] : result;
}

export async function labelValues(label: string, selector?: string): Promise<string[]> {
  return get(`label/${label}/values`, selector ? { 'match[]': selector } : {});
}

function number(text: string): number {
  return text === '+Inf' ? Infinity : text === '-Inf' ? -Infinity : Number(text);
}

/** Returns the step of a query in seconds, as Grafana reckons it from the range and the panel's width. */
function step(range: TimeRange, job: Job, least: string | undefined, points: number): number {
  const wanted = rangeUtil.calculateInterval(range, points, least || `${job.scrapeSeconds}s`).intervalMs / 1000;
  return Math.max(1, Math.min(wanted, job.longestStepSeconds ?? Infinity));
}

function builtIn(stepSeconds: number, job: Job): Values {
  const span = Math.round(job.to - job.from);
  const texts = {
    __interval: `${stepSeconds}s`,
    __interval_ms: `${stepSeconds * 1000}`,
    __rate_interval: `${Math.max(stepSeconds + job.scrapeSeconds, 4 * job.scrapeSeconds)}s`,
    __range: `${span}s`,
    __range_s: `${span}`,
    __range_ms: `${span * 1000}`,
    __from: `${Math.round(job.from * 1000)}`,
    __to: `${Math.round(job.to * 1000)}`,
  };
  return new Map(Object.entries(texts).map(([name, text]) => [name, { query: text, text, values: [text] }]));
}

function over(job: Job, seconds: number): Record<string, string> {
  return {
    start: `${Math.floor(job.from / seconds) * seconds}`,
    end: `${Math.floor(job.to / seconds) * seconds}`,
    step: `${seconds}`,
  };
}

export async function runQueries(
  panel: Panel,
  values: Values,
  range: TimeRange,
  job: Job,
  width: number
): Promise<{ frames: DataFrame[]; errors: string[] }> {
  const targets = (panel.targets ?? []).filter((target) => !target.hide);
  const tables = targets.filter((target) => target.format === 'table').length;
  const frames: DataFrame[] = [];
  const errors: string[] = [];
  for (const target of targets) {
    const points = panel.maxDataPoints ?? (Math.floor(width) || DEFAULT_POINTS);
    const seconds = step(range, job, target.interval || panel.interval, points);
    const query = fillIn(target.expr, new Map([...values, ...builtIn(seconds, job)]), 'query');
    try {
      if (target.instant) {
        frames.push(...asFrames(await ask('query', { query, time: `${job.to}` }), target, tables, query));
      }
      if (target.range || !target.instant) {
        const series = await ask('query_range', { query, ...over(job, seconds) });
        frames.push(...asFrames(series, target, tables, query, seconds * 1000));
      }
    } catch (error) {
      errors.push(`${target.refId}: ${error instanceof Error ? error.message : error}`);
    }
  }
  return { frames, errors };
}

function asFrames(series: Series[], target: Target, tables: number, query: string, interval?: number): DataFrame[] {
  if (target.format === 'table') {
    return [asTable(series, target.refId, tables > 1 ? `Value #${target.refId}` : 'Value')];
  }
  return series.map(({ metric, value, values }) => {
    const points = values ?? (value ? [value] : []);
    const name = legend(target.legendFormat, metric, query);
    return toDataFrame({
      refId: target.refId,
      name,
      fields: [
        // The interval lets lines end where points are missing.
        { name: 'Time', type: FieldType.time, config: { interval }, values: points.map(([time]) => time * 1000) },
        {
          name: 'Value',
          type: FieldType.number,
          labels: metric,
          config: { displayNameFromDS: name },
          values: points.map(([, text]) => number(text)),
        },
      ],
    });
  });
}

function asTable(series: Series[], refId: string, valueName: string): DataFrame {
  const rows = series.flatMap(({ metric, value, values }) =>
    (values ?? (value ? [value] : [])).map(([time, text]) => ({ metric, time: time * 1000, value: number(text) }))
  );
  const labels = [...new Set(series.flatMap((one) => Object.keys(one.metric)))].sort();
  return toDataFrame({
    refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: rows.map((row) => row.time) },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        config: { filterable: true },
        values: rows.map((row) => row.metric[label] ?? ''),
      })),
      { name: valueName, type: FieldType.number, values: rows.map((row) => row.value) },
    ],
  });
}

function legend(format: string | undefined, metric: Record<string, string>, query: string): string {
  if (format && format !== '__auto') {
    return format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, label: string) => metric[label] ?? label);
  }
  const { __name__: name = '', ...labels } = metric;
  const inside = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  return inside.length ? `${name}{${inside.join(', ')}}` : name || query;
}

/** Returns the marks of a dashboard's annotations: at a point's time, or at its value where that is the time. */
export async function findMarks(annotations: Annotation[], values: Values, range: TimeRange, job: Job): Promise<Mark[]> {
  const found = new Map<string, Mark>();
  for (const annotation of annotations) {
    const expr = annotation.target?.expr;
    if (annotation.enable === false || annotation.builtIn || !expr) {
      continue;
    }
    const seconds = step(range, job, annotation.target?.interval || '60s', DEFAULT_POINTS);
    const query = fillIn(expr, new Map([...values, ...builtIn(seconds, job)]), 'query');
    for (const series of await ask('query_range', { query, ...over(job, seconds) })) {
      const text = legend(annotation.titleFormat || annotation.name, series.metric, annotation.name);
      let last = -Infinity;
      for (const [time, value] of series.values ?? []) {
        const follows = time - last <= seconds;
        last = number(value) ? time : last;
        const at = annotation.useValueForTime ? Math.floor(number(value)) : time * 1000;
        const begins = annotation.useValueForTime || (number(value) !== 0 && !follows);
        if (begins && at >= job.from * 1000 && at <= job.to * 1000) {
          found.set(`${annotation.name} ${text} ${at}`, { name: annotation.name, color: annotation.iconColor, text, time: at });
        }
      }
    }
  }
  return [...found.values()];
}
