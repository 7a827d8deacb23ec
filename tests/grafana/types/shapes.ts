// What a dashboard's JSON must look like, from Grafana's own types.
import type {
  AnnotationQuery, AnnotationTarget, Dashboard, DataQuery, FieldConfig, Panel, RowPanel, VariableModel,
} from '@grafana/schema';
import type * as annolist from './node_modules/@grafana/schema/dist/types/raw/composable/annotationslist/panelcfg/x/types.gen';
import type * as barchart from './node_modules/@grafana/schema/dist/types/raw/composable/barchart/panelcfg/x/types.gen';
import type * as bargauge from './node_modules/@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/types.gen';
import type * as gauge from './node_modules/@grafana/schema/dist/types/raw/composable/gauge/panelcfg/x/types.gen';
import type * as piechart from './node_modules/@grafana/schema/dist/types/raw/composable/piechart/panelcfg/x/types.gen';
import type * as stat from './node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type * as stateTimeline from './node_modules/@grafana/schema/dist/types/raw/composable/statetimeline/panelcfg/x/types.gen';
import type * as statusHistory from './node_modules/@grafana/schema/dist/types/raw/composable/statushistory/panelcfg/x/types.gen';
import type * as table from './node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen';
import type * as text from './node_modules/@grafana/schema/dist/types/raw/composable/text/panelcfg/x/types.gen';
import type * as timeseries from './node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';

/** As JSON writes it: the members of an enum by their values. */
export type Written<T> = T extends string
  ? `${T}`
  : T extends (infer U)[]
    ? Written<U>[]
    : T extends object
      ? { [K in keyof T]: Written<T[K]> }
      : T;

/** A query to Prometheus. Since 13 @grafana/schema has no type for it, so these are the fields that its editor writes. */
export interface PrometheusQuery extends DataQuery {
  expr: string;
  editorMode?: 'builder' | 'code';
  exemplar?: boolean;
  format?: 'heatmap' | 'table' | 'time_series';
  instant?: boolean;
  interval?: string;
  legendFormat?: string;
  range?: boolean;
}

/** A link of a field; @grafana/schema has a field's links as unknown. */
export interface FieldLink {
  title: string;
  url: string;
  targetBlank?: boolean;
  oneClick?: boolean;
}

/** A list of alerts; its types are in Grafana's core. */
interface AlertList {
  alertInstanceLabelFilter: string;
  alertName: string;
  dashboardAlerts: boolean;
  datasource: string;
  groupBy: string[];
  groupMode: 'custom' | 'default';
  maxItems: number;
  sortOrder: 1 | 2 | 3 | 4 | 5;
  stateFilter: Partial<Record<'error' | 'firing' | 'noData' | 'normal' | 'pending' | 'recovering', boolean>>;
  viewMode: 'list' | 'stat';
}

export interface PanelOptions {
  alertlist: AlertList;
  annolist: annolist.Options;
  barchart: barchart.Options;
  bargauge: bargauge.Options;
  gauge: gauge.Options;
  piechart: piechart.Options;
  stat: stat.Options;
  'state-timeline': stateTimeline.Options;
  'status-history': statusHistory.Options;
  table: table.Options;
  text: text.Options;
  timeseries: timeseries.Options;
}

/** What a panel's type adds to the configuration of a field; nothing where it isn't listed. */
interface FieldOptions {
  barchart: barchart.FieldConfig;
  piechart: piechart.FieldConfig;
  'state-timeline': stateTimeline.FieldConfig;
  'status-history': statusHistory.FieldConfig;
  table: table.FieldConfig;
  timeseries: timeseries.FieldConfig;
}

export type PanelType = keyof PanelOptions;
export type Custom<T extends PanelType> = T extends keyof FieldOptions ? FieldOptions[T] : Record<string, never>;

type Standard = Omit<FieldConfig, 'custom' | 'links'> & { links?: FieldLink[] };
type Properties<T> = { [K in keyof T & string]-?: { id: K; value?: T[K] } }[keyof T & string];
type CustomProperties<T> = { [K in keyof T & string]-?: { id: `custom.${K}`; value?: T[K] } }[keyof T & string];

export type WrittenHead = Written<Omit<Dashboard, 'annotations' | 'panels' | 'templating'>>;
export type WrittenVariable = Written<VariableModel>;
export type WrittenAnnotation = Written<
  | (Omit<AnnotationQuery, 'target'> & { builtIn: 1; target?: AnnotationTarget })
  | (Omit<AnnotationQuery, 'target'> & {
      builtIn?: 0;
      target: PrometheusQuery;
      tagKeys?: string;
      textFormat?: string;
      titleFormat?: string;
      useValueForTime?: boolean;
    })
>;
export type WrittenRow = Written<Omit<RowPanel, 'panels'>>;
export type WrittenPanel = Written<Omit<Panel, 'fieldConfig' | 'options' | 'targets' | 'type'> & { type: PanelType }>;
export type WrittenOptions<T extends PanelType> = Written<Partial<PanelOptions[T]>>;
export type WrittenField<T extends PanelType> = Written<Standard & { custom?: Custom<T> }>;
export type WrittenProperty<T extends PanelType> = Written<Properties<Standard> | CustomProperties<Custom<T>>>;
export type WrittenMatcher = {
  id: 'byName' | 'byRegexp' | 'byType' | 'byFrameRefID' | 'byNames' | 'byValue';
  options?: unknown;
};
export type WrittenTarget = Written<PrometheusQuery>;
