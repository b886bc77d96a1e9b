use super::*;
use crate::{DataDirs, Profile, Task, TaskOptions, expand};

/// A folder with files, and a task of it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Folder(dir)
    }

    fn load(&self, name: &str, profile: Profile) -> Result<Task, Error> {
        let path = self.0.path().join(name).display().to_string();
        let options = TaskOptions {
            profile,
            ..TaskOptions::default()
        };
        let dirs = DataDirs {
            roots: vec![self.0.path().into()],
        };
        Task::load(&path, &options, &dirs)
    }

    fn refusal(&self, name: &str) -> String {
        self.load(name, Profile::Parity).unwrap_err().to_string()
    }
}

const CHOICES: &str = "
task: sky
dataset_path: somebody/sky
test_split: test
fewshot_split: dev
fewshot_config: {sampler: first_n}
num_fewshot: 1
output_type: multiple_choice
description: \"About {{topic}}.\\n\\n\"
doc_to_text: \"Q: {{q}}\\nA:\"
doc_to_choice: [no, 'yes']
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
";

#[test]
fn a_task_with_choices_and_examples() {
    let folder = Folder::new(&[
        ("sky.yaml", CHOICES),
        (
            "somebody/sky/default/test.jsonl",
            "{\"q\": \"Blue?\", \"label\": 1, \"topic\": \"it\"}\n",
        ),
        (
            "somebody/sky/default/dev.jsonl",
            "{\"q\": \"Red?\", \"label\": 0, \"topic\": \"x\"}\n",
        ),
    ]);
    let task = folder.load("sky.yaml", Profile::Parity).unwrap();
    let questions = task.questions(Split::Test).unwrap();
    // YAML 1.1 reads `no` as false, which Python prints so.
    assert_eq!(
        questions[0].prompt.text(),
        "About it.\n\nQ: Red?\nA: False\n\nQ: Blue?\nA:"
    );
    assert_eq!((questions[0].gold.as_str(), &questions[0].right[..]), ("yes", &[1][..]));
    assert_eq!(task.filter_names().collect::<Vec<_>>(), ["acc"]);
    assert_eq!(questions[0].id, "somebody/sky/default/test/0");
}

#[test]
fn a_task_that_generates_with_filters_and_a_file_of_its_own() {
    let yaml = "
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: rows.json}}
test_split: test
doc_to_text: '{{q}} ='
doc_to_target: '{{a | string}}'
generation_kwargs: {until: [\"\\n\", ';'], max_gen_toks: 9, do_sample: true, temperature: 0.2}
repeats: 3
filter_list:
  - {name: first, filter: [{function: regex, regex_pattern: '([0-9]+)', group_select: -1}, {function: take_first}]}
  - {name: maj, filter: [{function: regex, regex_pattern: '([0-9]+)'}, {function: take_first_k, k: 2}, {function: majority_vote},
     {function: take_first}]}
metric_list: [{metric: exact_match, ignore_case: true, regexes_to_ignore: [',']}]
";
    let folder = Folder::new(&[("sums.yaml", yaml), ("rows.json", "[{\"q\": \"1+1\", \"a\": 2}]")]);
    let task = folder.load("sums.yaml", Profile::Parity).unwrap();
    let questions = task.questions(Split::Test).unwrap();
    assert_eq!(
        (questions[0].prompt.text().as_str(), questions[0].gold.as_str()),
        ("1+1 =", "2")
    );
    assert_eq!(
        (&task.stop[..], task.max_new_tokens),
        (&["\n".to_string(), ";".into()][..], 9)
    );
    let samples = task.samples().unwrap();
    assert_eq!((samples.n, samples.temperature), (3, 0.2));
    let verdicts = task.extract_from(&["so 1 or 2", "2 2", "3"], "2").unwrap();
    let extracted: Vec<&str> = verdicts.iter().map(|(_, v)| v.extracted.as_str()).collect();
    assert_eq!(extracted, ["2", "1"], "of equals the first");
    assert_eq!(task.primary(), "first");
}

#[test]
fn includes_groups_tags_and_what_a_group_hands_on() {
    let folder = Folder::new(&[
        ("base", CHOICES),
        ("a.yaml", "include: base\ntask: sky_a\ntag: skies\n"),
        ("b.yaml", "include: base\ntask: sky_b\ntag: [skies, others]\n"),
        (
            "all.yaml",
            "group: all\ntask: [skies, {task: sky_a, num_fewshot: 0}]\nmetadata: {version: 2}\n",
        ),
        ("outer.yaml", "group: outer\ntask: [all]\nnum_fewshot: 0\n"),
        ("lost.yaml", "group: lost\ntask: [nobody]\n"),
    ]);
    let path = |name: &str| folder.0.path().join(name).display().to_string();
    let names = |name: &str| -> Vec<String> {
        let all = expand(&path(name), None).unwrap();
        all.into_iter()
            .map(|(name, _)| name.rsplit('#').next().unwrap().to_string())
            .collect()
    };
    assert_eq!(names("all.yaml"), ["sky_a", "sky_b"]);
    assert_eq!(names("outer.yaml"), ["sky_a", "sky_b"]);
    let shots = |name: &str| {
        folder
            .load(name, Profile::Parity)
            .unwrap()
            .shots
            .map(|shots| shots.count)
    };
    assert_eq!((shots("all.yaml#sky_b"), shots("outer.yaml#sky_b")), (Some(1), None));
    assert!(folder.refusal("lost.yaml").contains("'nobody'"));
    assert!(folder.refusal("all.yaml#sky_c").contains("sky_a, sky_b"));
}

#[test]
fn what_needs_more_is_refused_by_name() {
    for (change, expected) in [
        (
            ("metadata: {version: 1.0}", "process_docs: !function utils.process_docs"),
            "process_docs: this needs Python",
        ),
        (
            ("doc_to_target: label", "doc_to_target: !function utils.target"),
            "doc_to_target: utils.target",
        ),
        (("metric: acc,", "metric: bleu,"), "metric_list: the metric 'bleu'"),
        (
            ("aggregation: mean", "aggregation: !function u.agg"),
            "aggregation: this needs Python",
        ),
        (("sampler: first_n", "sampler: balanced"), "the sampler 'balanced'"),
        (
            ("output_type: multiple_choice", "output_type: loglikelihood_rolling"),
            "output_type: 'loglikelihood_rolling'",
        ),
        (
            ("metadata: {version: 1.0}", "use_prompt: promptsource:x"),
            "use_prompt: this key is not read here",
        ),
        (("test_split: test", "x_split: test"), "x_split: this key"),
        (
            ("dataset_path: somebody/sky", "dataset_kwargs: {}"),
            "dataset_path: the key is missing",
        ),
        (
            ("task: sky\n", "class: !function task.Sky\n"),
            "class: this needs Python",
        ),
    ] {
        let folder = Folder::new(&[("sky.yaml", &CHOICES.replace(change.0, change.1))]);
        let message = folder.refusal("sky.yaml");
        assert!(
            message.contains(expected) && message.contains("sky.yaml"),
            "{change:?}: {message}"
        );
    }
    // A function that only looks for contamination touches nothing.
    let idle = CHOICES.replace("metadata:", "doc_to_decontamination_query: !function u.q\nmetadata:");
    let folder = Folder::new(&[("sky.yaml", &idle)]);
    assert!(folder.load("sky.yaml", Profile::Parity).is_ok());
}

#[test]
fn a_begun_answer_stands_between_question_and_choices() {
    let yaml = CHOICES.replace("num_fewshot: 1", "gen_prefix: 'It is'\nnum_fewshot: 1");
    let folder = Folder::new(&[
        ("sky.yaml", &yaml),
        (
            "somebody/sky/default/test.jsonl",
            "{\"q\": \"Blue?\", \"label\": 1, \"topic\": \"it\"}\n",
        ),
        (
            "somebody/sky/default/dev.jsonl",
            "{\"q\": \"Red?\", \"label\": 0, \"topic\": \"x\"}\n",
        ),
    ]);
    let task = folder.load("sky.yaml", Profile::Parity).unwrap();
    let text = task.questions(Split::Test).unwrap()[0].prompt.text();
    assert_eq!(text, "About it.\n\nQ: Red?\nA: It is False\n\nQ: Blue?\nA: It is");
}
