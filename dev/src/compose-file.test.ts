import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { projectRoot } from '@signalbox/config/sources';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { serviceNames, usualServicePorts } from './service-names.ts';

const read = (path: string) => readFileSync(join(projectRoot, path), 'utf8');

test('the compose stack runs every service on its port, and says nothing twice', () => {
  // Throws where a key stands twice: compose refuses the whole file then.
  const { services } = parse(read('docker-compose.dev.yaml'), { merge: true });
  for (const name of serviceNames) {
    expect(services[name], name).toMatchObject({
      command: ['node', `apps/${name}/src/main.ts`],
      environment: { PORT: String(usualServicePorts[name]) },
    });
  }
});

test('the image has the packages of every service', () => {
  const dockerfile = read('deploy/docker/Dockerfile');
  for (const name of serviceNames) expect(dockerfile).toContain(`-w apps/${name} `);
});
