import { resolveImport, type SourceFile, type Workspace } from '../src/workspace.ts';

export interface DeclaredMetric {
  readonly name: string;
  readonly type: 'counter' | 'histogram' | 'gauge';
  readonly labels: readonly string[];
  readonly help: string;
  readonly services: readonly string[];
}

export interface DeclaredEvent {
  readonly name: string;
  /** Lowest first. */
  readonly levels: readonly string[];
  readonly services: readonly string[];
}

const levels = ['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'];
const metricForm =
  /\b(?:(counter|histogram|gauge)|createObservable(Counter))\(\s*'([a-z_]+)',\s*\{([^{}]*)\}/g;
const helpForm = /\b(?:help|description):\s*(?:'((?:[^'\\]|\\.)*)'|"([^"]*)")/;
/** `log.info('x.y'`, `log[level]('x.y'`, a choice of two, and what ends in lifecycle's `fail`. */
const logForm =
  /(?:\b\w*[lL]og(?:ger)?\??(?:\.(debug|info|warning|error|critical)|\[level\])|\b(fail|onFatal))\(\s*((?:[^"`;{}()]*?\?\s*)?'[a-z_]+\.[a-z_]+'(?:\s*:\s*'[a-z_]+\.[a-z_]+')?)/g;
const fatalForm = /\b(onFatal)\(\s*('[a-z_]+\.[a-z_]+')/g;

/** Which services load a source: what their mains lead to, by the imports of both. */
export function servicesOf(workspace: Workspace): (file: SourceFile) => string[] {
  const byPath = new Map(workspace.files.map((file) => [file.path, file]));
  const exported = new Map<string, string>();
  for (const each of workspace.packages) {
    for (const [subpath, file] of each.exports) exported.set(`${each.name}${subpath.slice(1)}`, file);
  }
  const services = new Map<string, Set<string>>();
  for (const main of workspace.files) {
    const service = serviceOf(main.path);
    if (service === undefined) continue;
    const reached = new Set<string>();
    const visit = (file: SourceFile): void => {
      if (reached.has(file.path)) return;
      reached.add(file.path);
      for (const { specifier } of file.source.imports) {
        const target = specifier.startsWith('.') ? resolveImport(file, specifier) : exported.get(specifier);
        const next = target === undefined ? undefined : byPath.get(target);
        if (next !== undefined) visit(next);
      }
    };
    visit(main);
    services.set(service, reached);
  }
  return (file) => [...services].filter(([, reached]) => reached.has(file.path)).map(([name]) => name);
}

export function declaredMetrics(workspace: Workspace): DeclaredMetric[] {
  const loadedBy = servicesOf(workspace);
  const found = new Map<string, DeclaredMetric>();
  for (const file of sources(workspace)) {
    for (const [, kind, observable, name = '', options = ''] of file.text.matchAll(metricForm)) {
      const help = helpForm.exec(options);
      const metric: DeclaredMetric = {
        name,
        type:
          observable !== undefined || kind === 'counter' ? 'counter' : kind === 'gauge' ? kind : 'histogram',
        labels: [...(/labels: \[([^\]]*)\]/.exec(options)?.[1] ?? '').matchAll(/'(\w+)'/g)].map(
          ([, label = '']) => label,
        ),
        help: (help?.[1] ?? help?.[2] ?? '').replaceAll("\\'", "'"),
        services: loadedBy(file),
      };
      const other = found.get(name);
      // Two services may measure the same thing in words of their own.
      found.set(name, {
        ...metric,
        help:
          other === undefined || other.help === metric.help ? metric.help : `${other.help} / ${metric.help}`,
        services: [...new Set([...(other?.services ?? []), ...metric.services])].sort(),
      });
    }
  }
  return [...found.values()]
    .filter(({ services }) => services.length > 0)
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

export function declaredEvents(workspace: Workspace): DeclaredEvent[] {
  const loadedBy = servicesOf(workspace);
  const found = new Map<string, { levels: Set<string>; services: Set<string> }>();
  for (const file of sources(workspace)) {
    const code = withoutComments(file);
    for (const [, level, fatal, names = ''] of [...code.matchAll(logForm), ...code.matchAll(fatalForm)]) {
      const services = loadedBy(file);
      if (services.length === 0) continue;
      for (const [, name = ''] of names.matchAll(/'([a-z_]+\.[a-z_]+)'/g)) {
        const event = found.get(name) ?? { levels: new Set(), services: new Set() };
        if (level !== undefined) event.levels.add(level.toUpperCase());
        else if (fatal !== undefined) event.levels.add('CRITICAL');
        else for (const each of ['DEBUG', 'INFO', 'ERROR']) event.levels.add(each);
        for (const service of services) event.services.add(service);
        found.set(name, event);
      }
    }
  }
  return [...found]
    .map(([name, event]) => ({
      name,
      levels: [...event.levels].sort((a, b) => levels.indexOf(a) - levels.indexOf(b)),
      services: [...event.services].sort(),
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

function sources(workspace: Workspace): SourceFile[] {
  return workspace.files.filter((file) => !file.isTest && /^(?:apps|libs)\//.test(file.path));
}

/** The text with comments blanked: `code` has strings blanked too, so they are put back. */
function withoutComments({ source }: SourceFile): string {
  let text = '';
  let at = 0;
  for (const { start, value } of source.strings) {
    if (start + 1 < at) continue;
    text += source.code.slice(at, start + 1) + value;
    at = start + 1 + value.length;
  }
  return text + source.code.slice(at);
}

/** How a page names services: all of them, or each. */
export function serviceList(workspace: Workspace): (services: readonly string[]) => string {
  const count = workspace.files.filter(({ path }) => serviceOf(path) !== undefined).length;
  return (services) => (services.length === count ? 'all' : services.join(', '));
}

/** The service whose main this file is. */
function serviceOf(path: string): string | undefined {
  const service = /^apps\/([\w-]+)\/src\/main\.ts$/.exec(path)?.[1];
  return service === 'cli' ? undefined : service;
}
