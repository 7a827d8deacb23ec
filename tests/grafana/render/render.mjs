// node render.mjs JOBS.json PROMETHEUS_URL CHROMIUM: draws each job's dashboard, and prints what is told of it as JSON.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';

import { chromium } from 'playwright-core';

const [jobsFile, prometheus, executablePath] = process.argv.slice(2);
const jobs = JSON.parse(fs.readFileSync(jobsFile, 'utf8'));
const TYPES = { '.css': 'text/css', '.js': 'text/javascript', '.svg': 'image/svg+xml', '.woff2': 'font/woff2' };
const READY_MS = 120_000;
// Grafana's names of its fonts' files.
const FONTS = { Regular: '400-normal', Medium: '500-normal', Italic: '400-italic', MediumItalic: '500-italic' };

const page = (job) => `<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="/dist/app.css">
<body style="margin:0;background:#111217"><div id="root" style="position:relative;color:#ccccdc"></div>
<script>
window.job = ${JSON.stringify(job).replaceAll('<', '\\u003c')};
window.grafanaBootData = { settings: { featureToggles: {}, buildInfo: { version: '13' } }, user: {} };
window.__grafana_public_path__ = '/public/';
</script><script src="/dist/app.js"></script>`;

function fileOf(url) {
  const font = /^\/public\/fonts\/inter\/Inter-(\w+)\.woff2$/.exec(url);
  if (font) {
    return `node_modules/@fontsource/inter/files/inter-latin-${FONTS[font[1]]}.woff2`;
  }
  const inside = path.posix.normalize(url).replace('/public/build/', '/public/');
  return inside.startsWith('/public/') ? `node_modules/@grafana/ui/dist${inside}` : `.${inside}`;
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  if (url.pathname.startsWith('/prometheus/')) {
    const asked = http.get(`${prometheus}${request.url.slice('/prometheus'.length)}`, (answer) => {
      response.writeHead(answer.statusCode, { 'content-type': 'application/json' });
      answer.pipe(response);
    });
    asked.on('error', (error) => response.writeHead(502).end(JSON.stringify({ status: 'error', error: error.message })));
    return;
  }
  if (url.pathname === '/favicon.ico') {
    response.writeHead(204).end();
    return;
  }
  const index = /^\/(\d+)$/.exec(url.pathname);
  const file = fileOf(url.pathname);
  if (index) {
    response.setHeader('content-type', 'text/html').end(page(jobs[index[1]]));
  } else if (fs.existsSync(file) && fs.statSync(file).isFile()) {
    response.setHeader('content-type', TYPES[path.extname(file)] ?? 'application/octet-stream').end(fs.readFileSync(file));
  } else {
    response.writeHead(404).end();
  }
});
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const browser = await chromium.launch({
  executablePath,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--hide-scrollbars',
  ],
});
const reports = [];
for (const [index, job] of jobs.entries()) {
  const context = await browser.newContext({
    viewport: { width: job.width, height: 900 }, timezoneId: 'UTC', locale: 'en-GB',
  });
  const tab = await context.newPage();
  const pageErrors = [];
  tab.on('pageerror', (error) => pageErrors.push(String(error.stack ?? error).slice(0, 500)));
  tab.on('console', (message) => message.type() === 'error' && pageErrors.push(message.text().slice(0, 300)));
  tab.on('response', (answer) => answer.status() >= 400 && pageErrors.push(`${answer.status()} ${answer.url()}`.slice(0, 300)));
  await tab.exposeFunction('grow', (height) => tab.setViewportSize({ width: job.width, height }));
  await tab.goto(`http://127.0.0.1:${server.address().port}/${index}`);
  await tab.waitForFunction(() => window.report, null, { timeout: READY_MS });
  await tab.screenshot({ path: job.picture, fullPage: true });
  reports.push({ ...(await tab.evaluate(() => window.report)), pageErrors });
  await context.close();
}
await browser.close();
server.close();
console.log(JSON.stringify(reports));
