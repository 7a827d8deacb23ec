// What Grafana's core does with frames before a panel gets them: transformations, and each field's configuration.
import {
  applyFieldOverrides,
  cacheFieldDisplayNames,
  createTheme,
  DataFrame,
  FieldConfigOptionsRegistry,
  ScopedVars,
  setTimeZoneResolver,
  standardFieldConfigEditorRegistry,
  standardEditorsRegistry,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from '@grafana/data';
import { lastValueFrom } from 'rxjs';

import { Panel } from './shapes';
import { fillIn, Values } from './variables';

export const theme = createTheme({ colors: { mode: 'dark' } });

const STANDARD = [
  'unit', 'min', 'max', 'decimals', 'displayName', 'color', 'thresholds', 'mappings', 'noValue', 'links', 'filterable',
  'description', 'fieldMinMax', 'actions',
];

/** What each type of panel sets of itself where its JSON is silent. */
const COLORS: Record<string, string> = { timeseries: 'palette-classic', 'state-timeline': 'continuous-GrYlRd' };

function option(path: string, isCustom: boolean): any {
  return {
    id: isCustom ? `custom.${path}` : path,
    path,
    isCustom,
    name: path,
    shouldApply: () => true,
    process: (value: unknown) => value,
    editor: () => null,
    override: () => null,
    settings: {},
  };
}

export function prepareRegistries(): void {
  setTimeZoneResolver(() => 'utc');
  standardEditorsRegistry.setInit(() => []);
  standardFieldConfigEditorRegistry.setInit(() => STANDARD.map((id) => option(id, false)));
  const transformers = new Map(Object.values(standardTransformers).map((one: any) => [one.id, one]));
  standardTransformersRegistry.setInit(() =>
    [...transformers.values()].map(
      (one: any): any => ({ id: one.id, name: one.name, transformation: () => Promise.resolve(one), editor: () => null })
    )
  );
}

function registry(panel: Panel): FieldConfigOptionsRegistry {
  const overrides = (panel.fieldConfig?.overrides ?? []).flatMap((rule: any) => rule.properties);
  const custom = new Set<string>([
    ...Object.keys(panel.fieldConfig?.defaults?.custom ?? {}),
    ...overrides.map(({ id }: any) => id).filter((id: string) => id.startsWith('custom.')).map((id: string) => id.slice(7)),
  ]);
  const found = new FieldConfigOptionsRegistry();
  STANDARD.forEach((id) => found.register(option(id, false)));
  custom.forEach((id) => found.register(option(id, true)));
  return found;
}

export async function prepare(panel: Panel, frames: DataFrame[], values: Values): Promise<DataFrame[]> {
  const steps = panel.transformations ?? [];
  for (const { id } of steps) {
    if (!standardTransformersRegistry.getIfExists(id)) {
      throw new Error(`Grafana knows no transformation ${id}`);
    }
  }
  const transformed = steps.length ? await lastValueFrom(transformDataFrame(steps, frames)) : frames;
  const data = applyFieldOverrides({
    data: transformed,
    fieldConfig: fieldConfig(panel),
    theme,
    timeZone: 'utc',
    fieldConfigRegistry: registry(panel),
    replaceVariables: (text: string, scoped?: ScopedVars) => fillIn(text, values, 'text', scoped),
  });
  cacheFieldDisplayNames(data);
  return data;
}

export function fieldConfig(panel: Panel): any {
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  const color = { mode: COLORS[panel.type] ?? 'thresholds' };
  const thresholds = { mode: 'absolute', steps: [{ color: 'green', value: -Infinity }, { color: 'red', value: 80 }] };
  return { defaults: { color, thresholds, ...defaults }, overrides };
}
