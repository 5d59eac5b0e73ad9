//! A run as pictures: SVG, one for each thing that is asked about most.
use super::observe::Minute;
use plotters::prelude::*;
use protocol::Fault;

const SIZE: (u32, u32) = (800, 480);
/// Colours that differ for nearly everybody (Okabe and Ito 2008).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// A line: its name, and its height at each minute.
type Line<'a> = (&'a str, fn(&Minute) -> f64);

/// Each with the name that its file is to have.
pub fn plots(scenario: &str, minutes: &[Minute]) -> Result<Vec<(&'static str, String)>, Fault> {
    let bytes: [Line; 3] = [
        ("mean", |minute| minute.mean[0].max(minute.mean[1])),
        ("p99", |minute| minute.p99[0].max(minute.p99[1])),
        ("busiest", |minute| minute.busiest[0].max(minute.busiest[1])),
    ];
    let recall: [Line; 2] =
        [("recall", |minute| minute.recall * 100.0), ("dead adverts", |minute| minute.dead_share * 100.0)];
    let rounds: [Line; 2] =
        [("p50", |minute| f64::from(minute.rounds_p50)), ("p99", |minute| f64::from(minute.rounds_p99))];
    let discover: [Line; 2] =
        [("p50", |minute| minute.discover_p50_ms as f64), ("p99", |minute| minute.discover_p99_ms as f64)];
    [
        ("bytes", "bytes a second and node, of the busier direction", &bytes[..]),
        ("recall", "percent of adverts", &recall),
        ("rounds", "rounds of a lookup", &rounds),
        ("discover", "ms until providers are found", &discover),
    ]
    .into_iter()
    .map(|(name, unit, lines)| {
        let svg = plot(&format!("{scenario}: {unit}"), unit, minutes, lines);
        svg.map(|svg| (name, svg)).map_err(|why| Fault::internal(format!("the plot of {name} cannot be drawn: {why}")))
    })
    .collect()
}

fn plot(title: &str, unit: &str, minutes: &[Minute], lines: &[Line]) -> Result<String, String> {
    let mut svg = String::new();
    draw(&mut svg, title, unit, minutes, lines).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw(
    svg: &mut String,
    title: &str,
    unit: &str,
    minutes: &[Minute],
    lines: &[Line],
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let last = minutes.last().map_or(1, |minute| minute.minute).max(1) as f64;
    let most = lines.iter().flat_map(|(_, of)| minutes.iter().map(of)).fold(1e-9, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..last, 0.0..most * 1.05)?;
    chart.configure_mesh().x_desc("minute").y_desc(unit).draw()?;
    for ((name, of), colour) in lines.iter().zip(COLOURS) {
        let points = minutes.iter().map(|minute| (minute.minute as f64, of(minute)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plot_has_a_line_for_each_name() {
        let minutes: Vec<Minute> =
            (1..=5).map(|minute| Minute { minute, recall: 0.5, mean: [100.0, 90.0], ..Minute::default() }).collect();
        let plots = plots("test", &minutes).expect("plots");
        assert_eq!(plots.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["bytes", "recall", "rounds", "discover"]);
        for (name, svg) in plots {
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
            assert!(svg.matches("<polyline").count() >= 2, "{name} has no lines");
            assert!(svg.contains("test: "), "{name} has no title");
        }
        // A run that broke in its first minute has nothing to show, and is no reason to fail.
        assert!(super::plots("test", &[]).is_ok());
    }
}
