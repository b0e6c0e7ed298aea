/** A span as Zipkin v2 tells it. Times are microseconds. */
export interface ZipkinSpan {
  readonly traceId: string;
  readonly id: string;
  readonly parentId?: string;
  readonly name?: string;
  readonly kind?: string;
  readonly timestamp?: number;
  readonly duration?: number;
  readonly localEndpoint?: { readonly serviceName?: string };
  readonly tags?: Readonly<Record<string, string>>;
}

interface Node {
  readonly span: ZipkinSpan;
  readonly children: Node[];
  /** It names a parent that the trace does not hold: not sent yet, or lost. */
  readonly orphan: boolean;
}

/**
 * Draws a trace as a tree: one line a span with service, name, duration and start after the trace began, both in
 * milliseconds; siblings in the order of their start. A span whose parent is missing stands at the top and says so.
 */
export function traceTree(spans: readonly ZipkinSpan[]): string[] {
  const unique = [...new Map(spans.map((span) => [span.id, span])).values()];
  const roots = buildTree(unique);
  const beginsAt = Math.min(...unique.map((span) => span.timestamp ?? Number.POSITIVE_INFINITY));
  const endsAt = Math.max(...unique.map((span) => (span.timestamp ?? 0) + (span.duration ?? 0)));
  const services = new Set(unique.map(serviceOf));
  const rows: { label: string; service: string; took: string; after: string; note: string }[] = [];

  const draw = (node: Node, lead: string, branch: string): void => {
    const { span, children, orphan } = node;
    const failed = span.tags?.error ?? span.tags?.['signalbox.error_code'];
    rows.push({
      label: `${lead}${branch}${span.name ?? '?'}`,
      service: serviceOf(span),
      took: milliseconds(span.duration ?? 0),
      after: span.timestamp === undefined ? '?' : milliseconds(span.timestamp - beginsAt),
      note: [failed === undefined ? '' : `failed: ${failed}`, orphan ? 'parent missing' : '']
        .filter(Boolean)
        .join(', '),
    });
    const below = branch === '' ? lead : lead + (branch === '└─ ' ? '   ' : '│  ');
    for (const [index, child] of children.entries()) {
      draw(child, below, index === children.length - 1 ? '└─ ' : '├─ ');
    }
  };
  for (const root of roots) draw(root, '', '');

  const width = (column: 'label' | 'service' | 'took' | 'after') =>
    Math.max(0, ...rows.map((row) => row[column].length));
  const [label, service, took, after] = [width('label'), width('service'), width('took'), width('after')];
  const total = Number.isFinite(beginsAt) ? milliseconds(endsAt - beginsAt) : '?';
  return [
    `trace ${unique[0]?.traceId ?? '?'}: ${unique.length} spans, ${services.size} services, ${total} ms`,
    ...rows.map((row) =>
      [
        row.service.padEnd(service),
        `${row.took.padStart(took)} ms`,
        `+${row.after.padStart(after)} ms`,
        row.note === '' ? row.label : `${row.label.padEnd(label)}  (${row.note})`,
      ].join('  '),
    ),
  ];
}

function serviceOf(span: ZipkinSpan): string {
  return span.localEndpoint?.serviceName ?? '?';
}

function milliseconds(micros: number): string {
  return (micros / 1000).toFixed(1);
}

function buildTree(spans: readonly ZipkinSpan[]): Node[] {
  const ids = new Set(spans.map((span) => span.id));
  const isRoot = (span: ZipkinSpan) =>
    span.parentId === undefined || span.parentId === span.id || !ids.has(span.parentId);
  const childrenOf = new Map<string, ZipkinSpan[]>();
  for (const span of spans) {
    if (isRoot(span) || span.parentId === undefined) continue;
    childrenOf.set(span.parentId, [...(childrenOf.get(span.parentId) ?? []), span]);
  }
  const placed = new Set<string>();
  const place = (span: ZipkinSpan): Node => {
    placed.add(span.id);
    const children = inOrder(childrenOf.get(span.id) ?? []).filter((child) => !placed.has(child.id));
    return {
      span,
      children: children.map(place),
      orphan: span.parentId !== undefined && !ids.has(span.parentId),
    };
  };
  const roots = inOrder(spans.filter(isRoot)).map(place);
  // Parents that name each other in a ring have no root: shown all the same, from the earliest.
  for (const span of inOrder(spans)) if (!placed.has(span.id)) roots.push(place(span));
  return roots;
}

function inOrder(spans: readonly ZipkinSpan[]): ZipkinSpan[] {
  return [...spans].sort((a, b) => (a.timestamp ?? 0) - (b.timestamp ?? 0) || a.id.localeCompare(b.id));
}
