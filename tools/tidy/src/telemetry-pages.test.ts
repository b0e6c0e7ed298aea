import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import {
  type DeclaredMetric,
  declaredEvents,
  declaredMetrics,
  serviceList,
} from '../test/telemetry-names.ts';
import { readWorkspace } from './workspace.ts';

const root = join(import.meta.dirname, '../../..');
const workspace = readWorkspace(root);
const named = serviceList(workspace);

function metricsPage(metrics: readonly DeclaredMetric[]): string {
  const rows = metrics.map(
    ({ name, type, labels, help, services }) =>
      `\`${name}\` | ${type} | ${labels.map((label) => `\`${label}\``).join(', ')} | ${named(services)} | ${help}`,
  );
  return `# Metrics

Prometheus text on \`/metrics\` of each service (404 when \`METRICS_ENABLED\` is false). Read from the code by a test, which fails
when this page differs; \`npx vitest run --project tidy -u\` writes it. Another test asks the services themselves.

Every series also carries \`service\`. Histograms are in seconds, with bounds from 0.001 to 60. Labels are bounded: never a session, a
user or free text. A series appears with its first value; a service that uses less of a library has fewer of its metrics.

name | type | labels | services | meaning
--- | --- | --- | --- | ---
${rows.join('\n')}
`;
}

it('docs/reference/metrics.md lists the metrics of the code', async () => {
  const metrics = declaredMetrics(workspace);
  expect(metrics.length).toBeGreaterThan(40);
  expect(metrics.filter(({ help }) => help === '')).toEqual([]);
  await expect(metricsPage(metrics)).toMatchFileSnapshot(join(root, 'docs/reference/metrics.md'));
});

it('docs/reference/log-events.md lists the events of the code, and says what each means', () => {
  const page = readFileSync(join(root, 'docs/reference/log-events.md'), 'utf8');
  const rows = [...page.matchAll(/^`([a-z_.]+)` \| ([A-Z, ]+) \| ([a-z, -]+) \| (.+)$/gm)];
  const onPage = rows.map(([, name, levels, services]) => `${name} | ${levels} | ${services}`);
  const inCode = declaredEvents(workspace).map(
    ({ name, levels, services }) => `${name} | ${levels.join(', ')} | ${named(services)}`,
  );
  expect(inCode.length).toBeGreaterThan(80);
  expect(onPage).toEqual(inCode);
  expect(rows.filter(([, , , , meaning = '']) => !meaning.endsWith('.'))).toEqual([]);
});
