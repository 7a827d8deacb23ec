// The inside of each type of panel: Grafana's own component where it is on npm.
import {
  DataFrame, FieldDisplay, getDisplayValueAlignmentFactors, getFieldDisplayValues, renderTextPanelMarkdown, TimeRange,
  VizOrientation,
} from '@grafana/data';
import {
  BarGauge, BarGaugeDisplayMode, BigValue, BigValueColorMode, BigValueGraphMode, BigValueJustifyMode, BigValueTextMode,
  TimeSeries, UPlotConfigBuilder, VizRepeater,
} from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import React, { useLayoutEffect } from 'react';

import { fieldConfig, theme } from './fields';
import { Mark, Panel } from './shapes';
import { Timeline } from './timeline';
import { fillIn, Values } from './variables';

export interface BodyProps {
  panel: Panel;
  data: DataFrame[];
  values: Values;
  range: TimeRange;
  marks: Mark[];
  width: number;
  height: number;
}

/** What stands in a panel without data. */
function Nothing({ panel }: { panel: Panel }) {
  const words = panel.fieldConfig?.defaults?.noValue || 'No data';
  const style = {
    display: 'flex', height: '100%', alignItems: 'center', justifyContent: 'center', textAlign: 'center',
    color: theme.colors.text.secondary, fontSize: theme.typography.size.lg,
  } as const;
  return <div data-empty={words} style={style}>{words}</div>;
}

function Marks({ config, marks }: { config: UPlotConfigBuilder; marks: Mark[] }) {
  useLayoutEffect(() => {
    config.addHook('draw', (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.lineWidth = 2 * devicePixelRatio;
      ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
      for (const mark of marks) {
        const x = Math.round(plot.valToPos(mark.time, 'x', true));
        ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName(mark.color);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.beginPath();
        ctx.moveTo(x - 4, bbox.top + bbox.height + 6);
        ctx.lineTo(x + 4, bbox.top + bbox.height + 6);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.fill();
      }
      ctx.restore();
    });
  }, [config, marks]);
  return null;
}

function Lines({ panel, data, range, marks, width, height }: BodyProps) {
  const legend = { showLegend: true, displayMode: 'list', placement: 'bottom', calcs: [], ...panel.options?.legend };
  return (
    <TimeSeries frames={data} structureRev={1} timeRange={range} timeZone="utc" width={width} height={height} legend={legend}
      options={panel.options}>
      {(config: UPlotConfigBuilder) => <Marks config={config} marks={marks} />}
    </TimeSeries>
  );
}

function Rows({ panel, data, range, width, height }: BodyProps) {
  const { cellHeight = 'sm', showHeader = true, sortBy, frameIndex = 0, enablePagination, frozenColumns } = panel.options ?? {};
  return (
    <TableNG data={data[frameIndex] ?? data[0]} width={width} height={height} noHeader={!showHeader} showTypeIcons={false}
      sortBy={sortBy} structureRev={1} cellHeight={cellHeight} timeRange={range} enablePagination={enablePagination}
      frozenColumns={frozenColumns?.left} fieldConfig={fieldConfig(panel)} getActions={() => []} enableVirtualization={false} />
  );
}

/** One or more single values, each drawn alike. */
function Single({ panel, data, values, width, height }: BodyProps) {
  const options = panel.options ?? {};
  const isStat = panel.type === 'stat';
  const getValues = () =>
    getFieldDisplayValues({
      fieldConfig: fieldConfig(panel),
      reduceOptions: options.reduceOptions ?? { calcs: ['lastNotNull'], values: false },
      replaceVariables: (text: string, scoped: any) => fillIn(text, values, 'text', scoped),
      theme,
      data,
      sparkline: isStat && (options.graphMode ?? 'area') !== 'none',
      timeZone: 'utc',
    });
  return (
    <VizRepeater<FieldDisplay, any> source={data} getValues={getValues} getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={(props) => (isStat ? <Big options={options} panel={panel} {...props} /> : <Bar options={options} {...props} />)}
      renderCounter={0} width={width} height={height} itemSpacing={isStat ? 3 : 10}
      orientation={options.orientation ?? VizOrientation.Auto} autoGrid={isStat}
      minVizWidth={isStat ? undefined : 8} minVizHeight={isStat ? undefined : 16} maxVizHeight={isStat ? undefined : 300} />
  );
}

function Big({ options, panel, value, alignmentFactors, width, height, count }: any) {
  const named = panel.fieldConfig?.defaults?.displayName && (options.textMode ?? 'auto') === 'auto';
  return (
    <BigValue value={value.display} count={count} sparkline={value.sparkline} width={width} height={height} theme={theme}
      colorMode={options.colorMode ?? BigValueColorMode.Value} graphMode={options.graphMode ?? BigValueGraphMode.Area}
      justifyMode={options.justifyMode ?? BigValueJustifyMode.Auto} alignmentFactors={alignmentFactors} text={options.text}
      textMode={named ? BigValueTextMode.ValueAndName : options.textMode ?? BigValueTextMode.Auto}
      disableWideLayout={options.wideLayout === false} />
  );
}

function Bar({ options, value, alignmentFactors, orientation, width, height }: any) {
  return (
    <BarGauge value={value.display} field={value.field} display={value.view?.getFieldDisplayProcessor(value.colIndex ?? 0)}
      theme={theme} width={width} height={height} orientation={orientation} alignmentFactors={alignmentFactors} text={options.text}
      displayMode={options.displayMode ?? BarGaugeDisplayMode.Gradient} showUnfilled={options.showUnfilled ?? true}
      valueDisplayMode={options.valueMode} namePlacement={options.namePlacement} itemSpacing={10} lcdCellWidth={12} />
  );
}

export const STAND_INS = new Set(['state-timeline', 'status-history']);

export function Body(props: BodyProps) {
  const { panel, data, values } = props;
  if (panel.type === 'text') {
    const html = renderTextPanelMarkdown(fillIn(panel.options?.content, values, 'text'));
    return <div className="markdown-html" dangerouslySetInnerHTML={{ __html: html }} />;
  }
  if (panel.type === 'stat' || panel.type === 'bargauge') {
    return data.some((frame) => frame.length) || panel.fieldConfig?.defaults?.noValue ? <Single {...props} /> : <Nothing panel={panel} />;
  }
  if (!data.some((frame) => frame.length)) {
    return <Nothing panel={panel} />;
  }
  switch (panel.type) {
    case 'timeseries':
      return <Lines {...props} />;
    case 'table':
      return <Rows {...props} />;
    case 'state-timeline':
      return <Timeline {...props} merge={panel.options?.mergeValues ?? true} />;
    case 'status-history':
      return <Timeline {...props} merge={false} />;
    default:
      return <div data-unsupported>Panels of type {panel.type} live in Grafana&apos;s core, which is not on npm.</div>;
  }
}
