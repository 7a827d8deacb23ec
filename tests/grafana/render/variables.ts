// Template variables: their values as Grafana picks them at first sight, and texts with them filled in.
import { ScopedVars } from '@grafana/data';

import { ask, labelValues } from './prometheus';
import { Job, Variable } from './shapes';

export interface Value {
  /** What stands in a query. */
  query: string;
  /** What stands in a title. */
  text: string;
  /** What stands in a link. */
  values: string[];
}
export type Values = Map<string, Value>;

/** Names that a text has and nothing gives a value to. */
export const unresolved = new Set<string>();

const NAME = /\$\{([\w.:]+)\}|\$(\w+)|\[\[(\w+)\]\]/g;

export function fillIn(text: unknown, values: Values, as: 'query' | 'text', scoped?: ScopedVars): string {
  return String(text ?? '').replace(NAME, (whole, braced?: string, plain?: string, old?: string) => {
    const [name, format] = (braced ?? plain ?? old ?? '').split(':');
    const value = values.get(name);
    if (value) {
      return format === 'queryparam'
        ? value.values.map((one) => `var-${name}=${encodeURIComponent(one)}`).join('&')
        : value[as];
    }
    const field = ofField(name, scoped);
    const found = field !== undefined && format === 'percentencode' ? encodeURIComponent(field) : field;
    // $1 is a group of label_replace.
    if (found === undefined && !/^\d+$/.test(name)) {
      unresolved.add(whole);
    }
    return found ?? whole;
  });
}

/** `__data.fields.NAME` and what else a link of a field may name. */
function ofField(name: string, scoped?: ScopedVars): string | undefined {
  if (name === '__url_time_range') {
    return 'from=now-1h&to=now';
  }
  const context = scoped?.__dataContext?.value;
  const row = context?.rowIndex ?? 0;
  if (name.startsWith('__data.fields.')) {
    const wanted = name.slice('__data.fields.'.length);
    const field = context?.data[context.frameIndex ?? 0]?.fields.find(
      (one: any) => one.name === wanted || one.config.displayName === wanted || one.state?.displayName === wanted
    );
    return field && String(field.values[row] ?? '');
  }
  if (name.startsWith('__field.labels.')) {
    return context?.field?.labels?.[name.slice('__field.labels.'.length)];
  }
  const value = context?.field?.values[row];
  if (name === '__value.text') {
    return context?.field?.display ? context.field.display(value).text : String(value ?? '');
  }
  return name === '__value.raw' ? String(value ?? '') : undefined;
}

export async function pickValues(variables: Variable[], job: Job): Promise<Values> {
  const values: Values = new Map();
  for (const variable of variables) {
    values.set(variable.name, await pick(variable, values, job.variables[variable.name]));
  }
  return values;
}

async function pick(variable: Variable, values: Values, wanted?: string): Promise<Value> {
  const one = (value: string): Value => ({ query: value, text: value, values: [value] });
  if (variable.type === 'datasource') {
    return one('prometheus');
  }
  if (wanted !== undefined) {
    return one(wanted);
  }
  const query = typeof variable.query === 'string' ? variable.query : variable.query?.query ?? '';
  const found = variable.type === 'query' ? sorted(await options(query, values), variable.sort) : query.split(',');
  if (variable.includeAll) {
    return { query: variable.allValue || `(${found.join('|')})`, text: 'All', values: ['$__all'] };
  }
  return one(variable.type === 'query' ? found[0] ?? '' : String(variable.current?.value ?? found[0] ?? ''));
}

async function options(query: string, values: Values): Promise<string[]> {
  const asked = fillIn(query, values, 'query');
  const labels = /^label_values\((?:(.+),\s*)?(\w+)\)$/.exec(asked);
  if (labels) {
    return labelValues(labels[2], labels[1]);
  }
  const result = /^query_result\((.+)\)$/.exec(asked);
  if (!result) {
    throw new Error(`variables with the query ${query} are not known here`);
  }
  const series = await ask('query', { query: result[1] });
  return series.map((one) => JSON.stringify(one.metric));
}

/** Grafana's numbers: 1 and 2 by the alphabet, 3 and 4 by numbers, even ones from the end. */
function sorted(found: string[], sort = 0): string[] {
  const number = (text: string) => parseInt(/\d+/.exec(text)?.[0] ?? '-1', 10);
  const ordered = [...found];
  if (sort) {
    ordered.sort(sort === 3 || sort === 4 ? (a, b) => number(a) - number(b) : (a, b) => a.localeCompare(b));
  }
  return sort && sort % 2 === 0 ? ordered.reverse() : ordered;
}
