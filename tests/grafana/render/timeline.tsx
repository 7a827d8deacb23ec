// A likeness of Grafana's state timeline, whose component lives in Grafana's core and is not on npm.
import { DataFrame, dateTimeFormat, Field, FieldType, getFieldDisplayName } from '@grafana/data';
import { LegendDisplayMode, Pagination, VizLegend } from '@grafana/ui';
import React from 'react';

import { theme } from './fields';
import type { BodyProps } from './panels';

interface Span {
  from: number;
  to: number;
  text: string;
  color: string;
}

const AXIS = 24;
const LEGEND_LINE = 24;
const PAGES = 40;
const ROWS_A_PAGE = 20;
const FONT = 12;
const TICK = 110;
const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800];

function spans(time: Field, field: Field, merge: boolean, end: number): Span[] {
  const found: Span[] = [];
  const step = time.config.interval ?? 0;
  time.values.forEach((from: number, index: number) => {
    const { text, color } = field.display!(field.values[index]);
    const to = Math.min(end, from + step);
    const last = found[found.length - 1];
    if (merge && last && last.to >= from && last.text === text) {
      last.to = to;
    } else {
      found.push({ from, to, text, color: color ?? theme.colors.text.secondary });
    }
  });
  return found;
}

/** Returns at most so many round times between two, all in milliseconds. */
function roundTimes(from: number, to: number, most: number): number[] {
  const step = 1000 * (STEPS_S.find((seconds) => (to - from) / 1000 / seconds <= most) ?? 604_800);
  const first = Math.ceil(from / step) * step;
  return Array.from({ length: Math.floor((to - first) / step) + 1 }, (_, index) => first + index * step);
}

function measure(text: string): number {
  const context = document.createElement('canvas').getContext('2d')!;
  context.font = `${FONT}px ${theme.typography.fontFamily}`;
  return context.measureText(text).width;
}

export function Timeline({ panel, data, range, width, height, merge }: BodyProps & { merge: boolean }) {
  const [from, to] = [range.from.valueOf(), range.to.valueOf()];
  const all = data.flatMap((frame: DataFrame) => {
    const time = frame.fields.find((field) => field.type === FieldType.time);
    return frame.fields
      .filter((field) => time && field !== time)
      .map((field) => ({ name: getFieldDisplayName(field, frame, data), spans: spans(time!, field, merge, to) }));
  });
  const options = panel.options ?? {};
  const each = options.perPage || ROWS_A_PAGE;
  const pages = Math.ceil(all.length / each);
  const rows = all.slice(0, each);
  const colors = new Map(rows.flatMap((row) => row.spans.map((span) => [span.text, span.color])));
  const legend = options.legend?.showLegend === false ? [] : [...colors];
  const left = Math.min(width / 3, Math.max(...rows.map((row) => measure(row.name))) + 12);
  const legendWidth = legend.reduce((sum, [text]) => sum + measure(text) + 34, 0);
  const below = (legend.length ? LEGEND_LINE * Math.ceil(legendWidth / width) : 0) + (pages > 1 ? PAGES : 0);
  const plot = height - AXIS - below;
  const line = plot / rows.length;
  const x = (time: number) => left + ((Math.max(time, from) - from) / (to - from)) * (width - left);
  const filled = (panel.fieldConfig?.defaults?.custom?.fillOpacity ?? 70) / 100;
  const thick = line * (options.rowHeight ?? 0.9);
  const ticks = roundTimes(from, to, (width - left) / TICK);
  return (
    <div>
      <svg width={width} height={height - below} fontSize={FONT} fill={theme.colors.text.primary} style={{ display: 'block' }}>
        {rows.map((row, index) => (
          <g key={index}>
            <text x={left - 8} y={(index + 0.5) * line} textAnchor="end" dominantBaseline="middle" data-label>{row.name}</text>
            {row.spans.map((span) => (
              <g key={span.from}>
                <rect x={x(span.from)} width={Math.max(1, x(span.to) - x(span.from))} y={index * line + (line - thick) / 2}
                  height={thick} fill={span.color} fillOpacity={filled} />
                {options.showValue !== 'never' && x(span.to) - x(span.from) > measure(span.text) + 6 && thick >= FONT && (
                  <text x={x(span.from) + 4} y={(index + 0.5) * line} dominantBaseline="middle">{span.text}</text>
                )}
              </g>
            ))}
          </g>
        ))}
        {ticks.map((at) => {
          const format = to - from > 86_400_000 ? 'MM/DD HH:mm' : at % 60_000 ? 'HH:mm:ss' : 'HH:mm';
          return (
            <text key={at} x={x(at)} y={plot + 16} textAnchor="middle" fill={theme.colors.text.secondary}>
              {dateTimeFormat(at, { format, timeZone: 'utc' })}
            </text>
          );
        })}
      </svg>
      {pages > 1 && <Pagination numberOfPages={pages} currentPage={1} onNavigate={() => undefined} />}
      {legend.length > 0 && (
        <VizLegend displayMode={LegendDisplayMode.List} placement="bottom"
          items={legend.map(([label, color]) => ({ label, color, yAxis: 1 }))} />
      )}
    </div>
  );
}
