import { globSync } from 'node:fs';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { AnySetting } from './setting.ts';
import { projectRoot } from './sources.ts';

export interface DeclaredSettings {
  /** Whose they are: `libs/config kafka`, `apps/gateway`. */
  readonly owner: string;
  readonly settings: readonly AnySetting[];
}

/**
 * Every setting that the workspace declares: each exported object of settings of each `settings.ts` and
 * `*-settings.ts`. A setting is shown where it was declared first, libs before apps.
 */
export async function declaredSettings(root: string = projectRoot): Promise<DeclaredSettings[]> {
  const files = globSync(
    ['libs/*/src/**/*settings.ts', 'apps/*/src/**/*settings.ts', 'dev/src/**/*settings.ts'],
    {
      cwd: root,
    },
  );
  const order = ['libs/config/src/service-', 'libs/config/', 'libs/', 'apps/', 'dev/'];
  const rank = (path: string) => `${order.findIndex((start) => path.startsWith(start))} ${path}`;
  files.sort((a, b) => rank(a).localeCompare(rank(b)));
  const seen = new Set<string>();
  const byOwner = new Map<string, AnySetting[]>();
  for (const file of files) {
    const loaded: unknown = await import(pathToFileURL(join(root, file)).href);
    const owner = ownerOf(file);
    for (const setting of settingsIn(loaded)) {
      if (seen.has(setting.env)) continue;
      seen.add(setting.env);
      byOwner.set(owner, [...(byOwner.get(owner) ?? []), setting]);
    }
  }
  return [...byOwner].map(([owner, settings]) => ({ owner, settings }));
}

/** `libs/config/src/kafka-settings.ts` → `libs/config kafka`. */
function ownerOf(file: string): string {
  const folder = file
    .split('/')
    .slice(0, file.startsWith('dev/') ? 1 : 2)
    .join('/');
  const topic = basename(file, '.ts').replace(/-?settings$/, '');
  return `${folder} ${topic}`.trim();
}

function settingsIn(exported: unknown): AnySetting[] {
  if (typeof exported !== 'object' || exported === null) return [];
  // Node sorts the names of a module, other loaders don't; within an object the author's order counts.
  const byName: [string, unknown][] = Object.entries(exported).sort(([a], [b]) => (a < b ? -1 : 1));
  return byName.flatMap(([, value]) => {
    if (typeof value !== 'object' || value === null || isSetting(value)) return [];
    return Object.values(value).filter(isSetting);
  });
}

function isSetting(value: unknown): value is AnySetting {
  return (
    typeof value === 'object' && value !== null && 'env' in value && 'parse' in value && 'refusal' in value
  );
}

const width = 110;

/** The text of .env.example: every setting with what it does, what it takes and its default; all commented out. */
export function renderEnvExample(declared: readonly DeclaredSettings[]): string {
  const lines = [
    '# Every setting there is, generated from the code: npm run env-example',
    '#',
    '# Copied to .env it changes nothing: take the # away from what you set. The environment wins over .env, and',
    '# SIGNALBOX_<NAME> over <NAME>. In dev, addresses come from the running embedded stack where none are set.',
    `# \${secret:name} in any value is read from SIGNALBOX_SECRET_<NAME> or from the file <SECRETS_DIR>/<name>.`,
  ];
  for (const { owner, settings } of declared) {
    lines.push('', `# --- ${owner} ${'-'.repeat(Math.max(3, 60 - owner.length))}`);
    for (const setting of settings)
      lines.push('', ...wrap(describe(setting)), `#${setting.env}=${example(setting)}`);
  }
  return `${lines.join('\n')}\n`;
}

function describe(setting: AnySetting): string {
  const notes = [
    setting.kind === 'choice' || setting.allowed !== undefined
      ? `${setting.kind}: ${setting.allowed}`
      : setting.kind,
    ...(setting.fallback('gateway') === undefined && !setting.optional ? ['required'] : []),
    ...(ownDefault(setting) ? ['each service has its own default'] : []),
    ...(['dev', 'staging', 'prod'] as const).flatMap((name) => {
      const profile = setting.profile(name);
      return profile === undefined ? [] : [`${name}: ${setting.format(profile.value)}`];
    }),
  ];
  return `${setting.doc} (${notes.join('; ')})`;
}

/** Defaults that only the checkout knows (version, commit) would make the file change with each commit. */
const knownAtRunTime = new Set(['SERVICE_VERSION', 'SERVICE_COMMIT']);

function example(setting: AnySetting): string {
  if (knownAtRunTime.has(setting.env) || setting.secret || ownDefault(setting)) return '';
  const fallback = setting.fallback('gateway');
  return fallback === undefined ? '' : setting.format(fallback.value);
}

/** Whether each service has its own default. */
function ownDefault(setting: AnySetting): boolean {
  const [one, other] = [setting.fallback('gateway'), setting.fallback('conversation-worker')];
  return (
    one !== undefined && other !== undefined && setting.format(one.value) !== setting.format(other.value)
  );
}

function wrap(text: string): string[] {
  const lines: string[] = [];
  let line = '#';
  for (const word of text.split(' ')) {
    if (line.length + word.length + 1 > width) {
      lines.push(line);
      line = '#';
    }
    line += ` ${word}`;
  }
  return [...lines, line];
}
