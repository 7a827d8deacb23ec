// What comes in and what goes out.

/** What is to be drawn; tests/grafana/pictures.py writes it. */
export interface Job {
  dashboard: Dashboard;
  /** Where the picture goes. */
  picture: string;
  /** Of the browser's window, in pixels. */
  width: number;
  /** The time range, in epoch seconds. */
  from: number;
  to: number;
  /** How often Prometheus scrapes, in seconds; Grafana takes it from the data source. */
  scrapeSeconds: number;
  /** No step is longer than this, whatever a query's least step is: else what is seen in minutes has no bar by the hour. */
  longestStepSeconds: number | null;
  /** Values of variables that are not to be picked as Grafana would. */
  variables: Record<string, string>;
}

export interface Dashboard {
  title: string;
  panels: Panel[];
  templating?: { list: Variable[] };
  annotations?: { list: Annotation[] };
}

export interface Variable {
  name: string;
  type: string;
  label?: string;
  hide?: number;
  query?: string | { query: string };
  current?: { value: unknown };
  includeAll?: boolean;
  allValue?: string;
  sort?: number;
}

export interface Annotation {
  name: string;
  enable?: boolean;
  builtIn?: number;
  iconColor: string;
  titleFormat?: string;
  useValueForTime?: boolean;
  target?: { expr?: string; interval?: string };
}

export interface Target {
  refId: string;
  expr: string;
  hide?: boolean;
  format?: string;
  instant?: boolean;
  range?: boolean;
  interval?: string;
  legendFormat?: string;
}

export interface Panel {
  id: number;
  type: string;
  title?: string;
  description?: string;
  transparent?: boolean;
  gridPos: { h: number; w: number; x: number; y: number };
  panels?: Panel[];
  interval?: string;
  maxDataPoints?: number;
  targets?: Target[];
  transformations?: any[];
  fieldConfig?: any;
  options?: any;
}

/** A vertical line on every time series. */
export interface Mark {
  name: string;
  color: string;
  text: string;
  /** Epoch milliseconds. */
  time: number;
}

/** What is told of one panel. */
export interface PanelReport {
  id: number;
  title: string;
  type: string;
  series: number;
  rows: number;
  errors: string[];
  /** The exception that drawing it threw. */
  threw: string;
  /** It shows that there is nothing, in these words. */
  empty: string;
  /** It should show that there is nothing, but doesn't. */
  blank: boolean;
  /** Its component is not on npm and nothing stands in for it here. */
  unsupported: boolean;
  /** A likeness was drawn, since its component is not on npm. */
  standIn: boolean;
  /** Texts that don't fit where they stand, and columns that have to be scrolled to. */
  cut: string[];
  /** What a reader finds in it. */
  text: string;
}

export interface Report {
  title: string;
  panels: PanelReport[];
  marks: number;
  /** Variables in queries, titles and links that nothing gives a value to. */
  unresolved: string[];
  fatal: string;
}
